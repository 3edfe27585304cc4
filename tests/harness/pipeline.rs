//! Debian's Prometheus and Alertmanager, and something for a Prometheus to watch.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use axum::{Router, routing::get};
use deploy::packages::Tool;
use nix::sys::signal::Signal;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Process, eventually};

/// Something with metrics, which the test sets. It is gone when dropped.
pub struct Watched {
    address: String,
    metrics: Arc<Mutex<String>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Watched {
    /// Serves no metrics yet.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let metrics = Arc::new(Mutex::new(String::new()));
        let shown = metrics.clone();
        let text = move || {
            std::future::ready(shown.lock().unwrap_or_else(PoisonError::into_inner).clone())
        };
        let serving = axum::serve(listener, Router::new().route("/metrics", get(text)));
        Ok(Self { address, metrics, serving: tokio::spawn(serving.into_future()) })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sets its metrics, in the text format of Prometheus.
    pub fn show(&self, metrics: &str) {
        metrics.clone_into(&mut self.metrics.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One of the two programs, with a folder of its own.
pub struct Program {
    tool: Tool,
    arguments: Vec<String>,
    folder: PathBuf,
    address: String,
    starts: usize,
    process: Process,
}

impl Program {
    /// Starts Prometheus with these files, of which `prometheus.yml` is its configuration. It sends alerts
    /// that fire again every second.
    pub async fn prometheus(folder: &Path, files: &[(&str, &str)]) -> Result<Self> {
        let path = |name: &str| folder.join(name).display().to_string();
        let arguments = vec![
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            "--rules.alert.resend-delay=1s".to_owned(),
        ];
        Self::start(Tool::Prometheus, arguments, folder, files).await
    }

    /// Starts Alertmanager with these files, of which `alertmanager.yml` is its configuration.
    pub async fn alertmanager(folder: &Path, files: &[(&str, &str)]) -> Result<Self> {
        let path = |name: &str| folder.join(name).display().to_string();
        let arguments = vec![
            format!("--config.file={}", path("alertmanager.yml")),
            format!("--storage.path={}", path("data")),
            "--cluster.listen-address=".to_owned(),
        ];
        Self::start(Tool::Alertmanager, arguments, folder, files).await
    }

    async fn start(
        tool: Tool,
        arguments: Vec<String>,
        folder: &Path,
        files: &[(&str, &str)],
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        for (name, content) in files {
            fs::write(folder.join(name), content)?;
        }
        let process = launch(tool, &arguments, folder, "127.0.0.1:0", 1)?;
        let address = listening(&process).await?;
        Ok(Self { tool, arguments, folder: folder.to_owned(), address, starts: 1, process })
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.ended().await?;
        Ok(())
    }

    /// Kills it and starts it again at the same address, with what it has stored.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.starts += 1;
        self.process =
            launch(self.tool, &self.arguments, &self.folder, &self.address, self.starts)?;
        listening(&self.process).await?;
        Ok(())
    }
}

fn launch(
    tool: Tool,
    arguments: &[String],
    folder: &Path,
    address: &str,
    start: usize,
) -> Result<Process> {
    let listen = format!("--web.listen-address={address}");
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain([listen.as_str()]).collect();
    // Beside the folder: the ends of logs there are shown when the test fails.
    let log = folder.with_extension(format!("{start}.log"));
    Process::start(tool.program(), &arguments, &[], log)
}

/// Waits until a program listens; returns its address.
async fn listening(process: &Process) -> Result<String> {
    let mut address = None;
    eventually("the program listens", async || {
        let log = process.log()?;
        let line = log.lines().find(|line| line.contains("msg=\"Listening on\""));
        address = line.and_then(|line| Some(line.split_once("address=")?.1.trim().to_owned()));
        Ok(address.is_some())
    })
    .await?;
    address.context("the program has no address")
}
