//! A private PgBouncer, for tests of what happens behind a connection pooler.

use std::net::{Ipv4Addr, TcpStream};

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{USER, folder::Folder, ports, postgres::Postgres, server::Server};
use crate::packages::{self, Consent, Tool};

/// A private PgBouncer before a private PostgreSQL. It stops when this is dropped, and also when this
/// process is killed.
pub struct PgBouncer {
    server: Server,
    port: u16,
}

impl PgBouncer {
    pub(super) fn start(
        folder: &Folder,
        postgres: &Postgres,
        name: &str,
        settings: &str,
    ) -> Result<Self> {
        packages::ensure(&[Tool::PgBouncer], &Consent::of_tests()?)?;
        let [port] = ports::free()?;
        let name = format!("pgbouncer-{name}");
        let users = format!("\"{USER}\" \"{}\"\n", postgres.password());
        let users = folder.write_shared(&format!("{name}.users"), &users)?;
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n\
             auth_file = {}\n{settings}\n",
            postgres.port(),
            users.display(),
        );
        let config = folder.write_shared(&format!("{name}.ini"), &config)?;
        let server = Server::new("PgBouncer", folder.log(&name), Signal::SIGTERM);
        let mut command = folder.account().server(Tool::PgBouncer.program(), server.stop_signal());
        command.arg(config).current_dir(folder.path());
        server.launch(command)?;
        server.await_ready(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()))?;
        Ok(Self { server, port })
    }

    /// The port, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.server.stop();
    }
}
