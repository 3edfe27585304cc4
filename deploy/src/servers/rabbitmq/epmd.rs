//! The port mapper by which Erlang nodes and their tools find each other.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    packages::Packages,
    servers::{
        folder::{Account, Folder},
        server::Server,
    },
};

/// An epmd. Left alone, RabbitMQ starts one that outlives it.
pub(in crate::servers) struct Epmd {
    program: PathBuf,
    account: Account,
    folder: PathBuf,
    port: u16,
    server: Server,
}

impl Epmd {
    /// One that is not started yet; `name` is for its log.
    pub(in crate::servers) fn new(
        packages: &Packages,
        folder: &Folder,
        name: &str,
        port: u16,
    ) -> Self {
        Self {
            program: packages.epmd.clone(),
            account: folder.account(),
            folder: folder.path().to_owned(),
            port,
            server: Server::new("epmd", folder.log(name), Signal::SIGTERM),
        }
    }

    /// Starts it unless it runs.
    pub(in crate::servers) fn ensure(&self) -> Result<()> {
        if self.server.pid().is_some() {
            return Ok(());
        }
        let mut epmd = self.account.server(&self.program, self.server.stop_signal());
        epmd.args(["-port", &self.port.to_string(), "-address", "127.0.0.1"]);
        epmd.current_dir(&self.folder);
        self.server.launch(epmd)?;
        let at = (Ipv4Addr::LOCALHOST, self.port);
        self.server.await_ready(|| Ok(TcpStream::connect(at).is_ok()))
    }

    /// Stops it.
    pub(in crate::servers) fn stop(&self) {
        self.server.stop();
    }
}
