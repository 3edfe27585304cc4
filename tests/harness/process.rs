//! A gateway or worker process.

use std::{
    fs::{self, File},
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use deploy::servers::take_port;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::eventually;

/// The setting that gives a process an address of its own for health and metrics.
pub const ADMIN: (&str, &str) = ("SDB_ADMIN_ADDRESS", "127.0.0.1:0");

/// A running program whose log is kept; it is killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with these variables and no others; `log` is where its errors go.
    pub fn start(
        program: &Path,
        arguments: &[&str],
        variables: &[(String, String)],
        log: PathBuf,
    ) -> Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} can't be started", program.display()))?;
        Ok(Self { child, log })
    }

    /// Its id.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()?.try_into()?), signal)?)
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        self.bytes_of("VmHWM:")
    }

    /// The memory that it has now, in bytes.
    pub fn memory(&self) -> Result<u64> {
        self.bytes_of("VmRSS:")
    }

    fn bytes_of(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = value.and_then(|value| value.split_ascii_whitespace().next());
        Ok(kib.context("the system does not tell")?.parse::<u64>()? * 1024)
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(timeout(Duration::from_secs(20), self.child.wait())
            .await
            .context("it does not end")??)
    }

    /// How many files it has open.
    pub fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    /// Waits until it serves health and metrics at an address of their own, and returns that.
    pub async fn admin_address(&self) -> Result<String> {
        let mut address = None;
        eventually("the process serves health and metrics", async || {
            let lines = log_lines(&self.log()?);
            let line = lines.iter().find(|line| line["message"] == "serving health and metrics");
            address = line.and_then(|line| line["address"].as_str().map(str::to_owned));
            Ok(address.is_some())
        })
        .await?;
        address.context("the process has no address")
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

/// The lines of a log in JSON.
#[must_use]
pub fn log_lines(log: &str) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The first of so many free ports, below those that the system gives to clients. No other test gets them.
pub fn free_ports(count: u16) -> Result<u16> {
    for _ in 0..100 {
        let mut random = [0; 2];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let port = 20_000 + u16::from_ne_bytes(random) % 10_000;
        let mut all = (port..port + count).map(|port| TcpListener::bind(("127.0.0.1", port)));
        if all.all(|bound| bound.is_ok()) && (port..port + count).all(take_port) {
            return Ok(port);
        }
    }
    bail!("no {count} free ports")
}
