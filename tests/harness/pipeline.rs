//! Debian's Prometheus and Alertmanager, and something for a Prometheus to watch.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use axum::{Router, extract::RawQuery, routing::get};
use deploy::packages::Tool;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Process, eventually};

/// After how long a Prometheus sends an alert again, where nothing waits for that. The receiver believes that the
/// alert ends after four times as long, which is more than anything here takes.
pub const RESEND_DELAY: &str = "10s";

/// Something with metrics, which the test sets: at `/metrics`, and at `/probe` as an exporter that is told by its
/// query whom to ask. It is gone when dropped.
pub struct Watched {
    address: String,
    metrics: Arc<Mutex<String>>,
    probed: Arc<Mutex<BTreeSet<String>>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Watched {
    /// Serves no metrics yet.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let metrics = Arc::<Mutex<String>>::default();
        let probed = Arc::<Mutex<BTreeSet<String>>>::default();
        let (shown, asked) = (metrics.clone(), probed.clone());
        let text = move || std::future::ready(locked(&shown).clone());
        let probe = {
            let text = text.clone();
            move |RawQuery(query): RawQuery| {
                locked(&asked).extend(query);
                text()
            }
        };
        let router = Router::new().route("/metrics", get(text)).route("/probe", get(probe));
        let serving = tokio::spawn(axum::serve(listener, router).into_future());
        Ok(Self { address, metrics, probed, serving })
    }

    /// With which queries `/probe` was asked.
    #[must_use]
    pub fn probed(&self) -> Vec<String> {
        locked(&self.probed).iter().cloned().collect()
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sets its metrics, in the text format of Prometheus.
    pub fn show(&self, metrics: &str) {
        metrics.clone_into(&mut locked(&self.metrics));
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// again after this delay, and tells the receiver that they end after four times as long.
    pub async fn prometheus(
        folder: &Path,
        files: &[(&str, &str)],
        resend_delay: &str,
    ) -> Result<Self> {
        let path = |name: &str| folder.join(name).display().to_string();
        let arguments = vec![
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            format!("--rules.alert.resend-delay={resend_delay}"),
        ];
        Self::start(Tool::Prometheus, arguments, folder, files).await
    }

    /// Starts Alertmanager with these files, of which `alertmanager.yml` is its configuration.
    pub async fn alertmanager(folder: &Path, files: &[(&str, &str)]) -> Result<Self> {
        let alone = vec!["--cluster.listen-address=".to_owned()];
        Self::start_alertmanager(folder, files, alone).await
    }

    /// The same as a member of a cluster: at one address for the others, who are at these. It soon takes
    /// over from one that is gone.
    pub async fn member(
        folder: &Path,
        files: &[(&str, &str)],
        address: &str,
        others: &[String],
    ) -> Result<Self> {
        let mut cluster: Vec<String> = [
            "peer-timeout=1s",
            "gossip-interval=50ms",
            "pushpull-interval=1s",
            "probe-interval=200ms",
            "probe-timeout=150ms",
            "reconnect-interval=1s",
        ]
        .map(|setting| format!("--cluster.{setting}"))
        .to_vec();
        cluster.push(format!("--cluster.listen-address={address}"));
        cluster.extend(others.iter().map(|other| format!("--cluster.peer={other}")));
        Self::start_alertmanager(folder, files, cluster).await
    }

    async fn start_alertmanager(
        folder: &Path,
        files: &[(&str, &str)],
        cluster: Vec<String>,
    ) -> Result<Self> {
        let path = |name: &str| folder.join(name).display().to_string();
        let mut arguments = vec![
            format!("--config.file={}", path("alertmanager.yml")),
            format!("--storage.path={}", path("data")),
        ];
        arguments.extend(cluster);
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

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// What it says at a path, as JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let url = format!("http://{}{path}", self.address);
        Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
    }

    /// Kills it and starts it again at the same address, with what it has stored.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.start_again().await
    }

    /// Starts it again after it was killed, at the same address and without what it has stored.
    pub async fn start_empty(&mut self) -> Result<()> {
        fs::remove_dir_all(self.folder.join("data"))?;
        self.start_again().await
    }

    /// The same with what it has stored.
    pub async fn start_again(&mut self) -> Result<()> {
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
