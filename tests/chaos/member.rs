//! One gateway or worker, across restarts, with its connections to the servers.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use deploy::process;
use harness::{System, proxy::Proxy};
use nix::sys::signal::Signal;

/// Time limit for stopping a process.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(25);

/// A gateway or a worker.
pub(crate) struct Member {
    /// What it is, and which.
    pub(crate) name: String,
    /// Where a gateway serves.
    pub(crate) address: String,
    /// Its wire to PostgreSQL.
    pub(crate) database: Proxy,
    /// Its wire to RabbitMQ.
    pub(crate) broker: Proxy,
    program: PathBuf,
    variables: Vec<(String, String)>,
    folder: PathBuf,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    child: Option<Child>,
    starts: usize,
    /// The most memory that any of its processes had, in bytes.
    peak: u64,
}

impl Member {
    /// Prepares one of this system's, not started yet.
    pub(crate) async fn new(system: &System, role: &str, number: usize) -> Result<Self> {
        let database = Proxy::before(&system.database_uri).await?;
        let broker = Proxy::before(&system.amqp_uri).await?;
        // The same one in each life, so that clients find it again.
        let address = format!("127.0.0.1:{}", free_port()?);
        let variables = system.variables(&[
            ("SDB_DATABASE_URI", database.uri()),
            ("SDB_AMQP_URI", broker.uri()),
            ("SDB_BIND", &address),
            ("SDB_LOG", "info,gateway=debug,worker=debug"),
        ]);
        let binaries = &system.context.binaries;
        let program = if role == "gateway" { &binaries.gateway } else { &binaries.worker };
        Ok(Self {
            name: format!("{role} {number}"),
            address,
            database,
            broker,
            program: program.clone(),
            variables,
            folder: system.context.folder.clone(),
            life: Mutex::default(),
        })
    }

    /// Starts its next life, with a log of its own.
    pub(crate) fn start(&self) -> Result<()> {
        let mut life = self.life();
        life.starts += 1;
        let log = format!("{}-{}.log", self.name.replace(' ', "-"), life.starts);
        let mut command = process::dying_with_us(&self.program, Signal::SIGKILL);
        command
            .arg("run")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.folder.join(log))?);
        let child = process::spawn(command);
        life.child = Some(child.with_context(|| format!("{} can't be started", self.name))?);
        Ok(())
    }

    /// Kills it (SIGKILL).
    pub(crate) fn kill(&self) -> Result<()> {
        let mut life = self.life();
        life.look();
        if let Some(mut child) = life.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stalls it (SIGSTOP).
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.life().child.as_mut() {
            process::signal(child, signal);
        }
    }

    /// Tells it to stop (SIGTERM) and waits for its end.
    pub(crate) fn stop(&self) -> Result<()> {
        let Some(mut child) = self.life().child.take() else { return Ok(()) };
        process::signal(&mut child, Signal::SIGTERM);
        match process::wait(&mut child, STOP_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                bail!("{}, told to stop, ended with {}", self.name, process::describe(status))
            }
            None => {
                child.kill()?;
                child.wait()?;
                bail!("{} did not stop within {} s", self.name, STOP_LIMIT.as_secs())
            }
        }
    }

    /// Looks at its memory, and whether it ended by itself, and how.
    pub(crate) fn look(&self) -> Option<String> {
        let mut life = self.life();
        life.look();
        let status = life.child.as_mut()?.try_wait().ok()??;
        life.child = None;
        Some(format!("{} ended by itself with {}", self.name, process::describe(status)))
    }

    /// The most memory that any of its processes had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.life().peak
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    fn look(&mut self) {
        if let Some(child) = &self.child {
            self.peak = self.peak.max(peak_memory(child.id()).unwrap_or_default());
        }
    }
}

fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// A port that no outgoing connection takes while its gateway is away.
fn free_port() -> Result<u16> {
    let range = fs::read_to_string(Path::new("/proc/sys/net/ipv4/ip_local_port_range"))?;
    let end: u16 = range.split_ascii_whitespace().next().context("no range of ports")?.parse()?;
    let first = 10_000 + (std::process::id() % 10_000) as u16;
    (first..end.max(first))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && not_given(*port))
        .context("no free port")
}

/// Whether the port was not given to another member, which may not have taken it yet.
fn not_given(port: u16) -> bool {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if given.contains(&port) {
        return false;
    }
    given.push(port);
    true
}
