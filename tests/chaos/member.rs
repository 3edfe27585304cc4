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
use deploy::{binaries::Binaries, process};
use harness::{System, proxy::Proxy};
use nix::sys::signal::Signal;

use crate::alert::MAPPING;

/// Time limit for stopping a process.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(25);

/// A gateway or a worker.
pub(crate) struct Member {
    /// What it is, and which.
    pub(crate) name: String,
    /// Where it answers: a gateway everything, a worker whether it is ready.
    pub(crate) address: String,
    /// Its wire to PostgreSQL.
    pub(crate) database: Proxy,
    /// Its wire to RabbitMQ.
    pub(crate) broker: Proxy,
    variables: Vec<(String, String)>,
    folder: PathBuf,
    life: Mutex<Life>,
}

struct Life {
    program: PathBuf,
    child: Option<Child>,
    starts: usize,
    /// The most memory that any of its processes had, in bytes.
    peak: u64,
}

impl Member {
    /// Prepares one of this system's, not started yet, that runs one of these programs.
    pub(crate) async fn new(
        system: &System,
        programs: &Binaries,
        role: &str,
        number: usize,
    ) -> Result<Self> {
        let database = Proxy::before(&system.database_uri).await?;
        let broker = Proxy::before(&system.amqp_uri).await?;
        // The same one in each life, so that clients find it again.
        let address = format!("127.0.0.1:{}", free_port()?);
        let mapping = system.context.folder.join("mapping.yaml");
        fs::write(&mapping, MAPPING)?;
        let serves = if role == "gateway" { "SDB_BIND" } else { "SDB_ADMIN_ADDRESS" };
        let variables = system.variables(&[
            ("SDB_DATABASE_URI", database.uri()),
            ("SDB_AMQP_URI", broker.uri()),
            (serves, &address),
            ("SDB_LOG", "info,gateway=debug,worker=debug"),
            ("SDB_ALERT_MAPPING", &mapping.display().to_string()),
        ]);
        let life = Life { program: program(programs, role), child: None, starts: 0, peak: 0 };
        Ok(Self {
            name: format!("{role} {number}"),
            address,
            database,
            broker,
            variables,
            folder: system.context.folder.clone(),
            life: Mutex::new(life),
        })
    }

    /// Its next life runs one of these programs.
    pub(crate) fn take_program(&self, programs: &Binaries) {
        self.life().program = program(programs, &self.name);
    }

    /// Starts its next life, with a log of its own.
    pub(crate) fn start(&self) -> Result<()> {
        let mut life = self.life();
        life.starts += 1;
        let log = self.log_of(life.starts);
        let mut command = process::dying_with_us(&life.program, Signal::SIGKILL);
        command
            .arg("run")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log)?);
        let child = process::spawn(command);
        life.child = Some(child.with_context(|| format!("{} can't be started", self.name))?);
        Ok(())
    }

    /// What it has logged in its present life.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.log_of(self.life().starts))?)
    }

    fn log_of(&self, start: usize) -> PathBuf {
        self.folder.join(format!("{}-{start}.log", self.name.replace(' ', "-")))
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

/// The program for a role, or for a member's name, which begins with its role.
fn program(programs: &Binaries, role: &str) -> PathBuf {
    if role.starts_with("gateway") { &programs.gateway } else { &programs.worker }.clone()
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
