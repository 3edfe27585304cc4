//! `cargo run` as a child, in a terminal of its own where asked, and what it leaves behind.

use std::{
    env, fs,
    fs::File,
    net::TcpListener,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use deploy::binaries;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    sync::OnceCell,
    task::spawn_blocking,
    time::timeout,
};

use harness::{Fixture, eventually_within, free_ports};

/// A start takes longer than most that is waited for: RabbitMQ's alone, and a build. The limits of what is started
/// end sooner, and say what is missing.
const START_LIMIT: Duration = Duration::from_secs(300);

/// What is to be started.
pub(crate) struct Start {
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
    /// Variables beside those of the tests.
    pub(crate) variables: Vec<(String, String)>,
    /// Whether it has a terminal.
    pub(crate) terminal: bool,
    /// The port of the first gateway.
    pub(crate) port: u16,
    /// The data folder.
    pub(crate) data: PathBuf,
    log: PathBuf,
}

/// The program of `cargo run`, built as the tests are, once. A copy of it: a test of the command itself
/// has cargo put another one in its place.
pub(crate) async fn deploy(fixture: &Fixture) -> Result<&'static Path> {
    static DEPLOY: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = fixture.folder.clone();
    let build = || async {
        let [built] = spawn_blocking(|| binaries::build_programs(["deploy"])).await??;
        let copy = folder.join("deploy");
        fs::copy(built, &copy)?;
        anyhow::Ok(copy)
    };
    Ok(DEPLOY.get_or_try_init(build).await?)
}

impl Start {
    /// The built program with the built gateway and worker, a data folder of the test's own, and free
    /// ports for two gateways.
    pub(crate) async fn new(fixture: &Arc<Fixture>, arguments: &[&str]) -> Result<Self> {
        let programs = fixture.binaries.worker.parent().context("the worker is in no folder")?;
        let programs = programs.display().to_string();
        let mut start =
            Self::of(fixture, vec![deploy(fixture).await?.display().to_string()], arguments)?;
        start.words.extend(["--programs".to_owned(), programs]);
        Ok(start)
    }

    /// Another program, which gets the data folder and these arguments.
    pub(crate) fn of(
        fixture: &Arc<Fixture>,
        mut words: Vec<String>,
        arguments: &[&str],
    ) -> Result<Self> {
        let data = fixture.folder.join("data");
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words.extend(["--data".to_owned(), data.display().to_string()]);
        let port = free_ports(2)?;
        let bind = ("SDB_BIND".to_owned(), format!("127.0.0.1:{port}"));
        let log = fixture.folder.join("run.log");
        Ok(Self { words, variables: vec![bind], terminal: false, port, data, log })
    }

    /// Sets a variable; it wins over an earlier one of this name.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In a terminal.
    pub(crate) fn in_terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Starts it.
    pub(crate) fn spawn(&self) -> Result<Started> {
        self.spawn_with(self.log.clone())
    }

    fn spawn_with(&self, output: PathBuf) -> Result<Started> {
        let mut command = if self.terminal {
            let words: Vec<String> = self
                .words
                .iter()
                .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
                .collect();
            let mut command = Command::new("script");
            command.args(["-qefc", &format!("exec {}", words.join(" ")), "/dev/null"]);
            command.env("SHELL", "/bin/sh");
            command
        } else {
            let (program, arguments) = self.words.split_first().context("no program")?;
            let mut command = Command::new(program);
            command.args(arguments);
            command
        };
        // The settings of who runs the tests are not the test's, and what cargo says to the tests of
        // their own package would have another cargo build dependencies again.
        let others = [
            "SDB_",
            "STATUS_DASHBOARD_",
            "OTEL_",
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ];
        for (name, _) in env::vars_os() {
            let own =
                name.to_str().is_none_or(|name| others.iter().any(|start| name.starts_with(start)));
            if own || name == "CI" {
                command.env_remove(name);
            }
        }
        let log = File::create(&output)?;
        command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(deploy::checkout())
            .stdin(if self.terminal { Stdio::piped() } else { Stdio::null() })
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{:?}", self.words))?;
        Ok(Started { child, log: output, data: self.data.clone(), port: self.port })
    }

    /// Starts it and waits for its end; returns its exit code and what it printed.
    pub(crate) async fn to_its_end(&self) -> Result<(Option<i32>, String)> {
        self.to_its_end_beside("end.log").await
    }

    /// The same beside another run of this test, with an output of its own.
    pub(crate) async fn to_its_end_beside(&self, log: &str) -> Result<(Option<i32>, String)> {
        let mut started = self.spawn_with(self.log.with_file_name(log))?;
        let status = started.ended().await?;
        Ok((status.code(), started.printed()?))
    }
}

/// A started `cargo run`.
pub(crate) struct Started {
    child: Child,
    log: PathBuf,
    data: PathBuf,
    port: u16,
}

impl Started {
    /// Waits until it prints this.
    pub(crate) async fn prints(&mut self, text: &str) -> Result<()> {
        let Self { child, log, .. } = self;
        eventually_within(START_LIMIT, &format!("it prints `{text}`"), async || {
            let printed = printed(log)?;
            if printed.contains(text) {
                return Ok(true);
            }
            let ended = child.try_wait()?;
            ensure!(
                ended.is_none(),
                "it ended with {ended:?} before it printed `{text}`: {printed}"
            );
            Ok(false)
        })
        .await
    }

    /// Waits until everything runs.
    pub(crate) async fn runs(&mut self) -> Result<()> {
        self.prints("everything is running").await
    }

    /// All that it has printed.
    pub(crate) fn printed(&self) -> Result<String> {
        printed(&self.log)
    }

    /// The environment file.
    pub(crate) fn environment(&self) -> PathBuf {
        self.data.join("environment")
    }

    /// The URL of a gateway, the first of which is 0.
    pub(crate) fn url(&self, gateway: u16, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port + gateway)
    }

    /// Types into its terminal.
    pub(crate) async fn types(&mut self, keys: &str) -> Result<()> {
        let terminal = self.child.stdin.as_mut().context("it has no terminal")?;
        terminal.write_all(keys.as_bytes()).await?;
        Ok(terminal.flush().await?)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().context("it has ended")?;
        Ok(kill(Pid::from_raw(id.try_into()?), signal)?)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        let ended = timeout(START_LIMIT, self.child.wait()).await;
        Ok(ended.with_context(|| format!("it does not end: {:?}", self.printed()))??)
    }

    /// What it must leave nothing of: processes, ports and sockets.
    pub(crate) async fn traces(&self) -> Result<Traces> {
        let root = self.child.id().context("it has ended")?;
        let mut processes = vec![root];
        let mut next = 0;
        while let Some(parent) = processes.get(next).copied() {
            processes.extend(processes_where(|stat| stat.parent == parent)?);
            next += 1;
        }
        let addresses = r#"printf '%s\n%s\n' "$SDB_DATABASE_URI" "$SDB_AMQP_URI""#;
        let mut ports: Vec<u16> = shell(&self.environment(), addresses)
            .await?
            .lines()
            .filter_map(|uri| uri.rsplit(':').next()?.split('/').next()?.parse().ok())
            .collect();
        ensure!(ports.len() == 2, "the addresses of the environment file have no ports");
        ports.push(self.port);
        let processes = processes
            .into_iter()
            .filter_map(|process| Some((process, Stat::of(process)?.started)))
            .collect();
        Ok(Traces { processes, ports, data: self.data.clone() })
    }
}

fn printed(log: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(log)?).replace('\r', ""))
}

/// Runs a script with `sh` that has read an environment file, and returns what it printed.
pub(crate) async fn shell(environment: &Path, script: &str) -> Result<String> {
    let script = format!(". '{}'\n{script}", environment.display());
    let output = Command::new("sh")
        .args(["-euc", &script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .kill_on_drop(true)
        .output();
    let output = timeout(START_LIMIT, output).await.context("the script hangs")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{script}` failed: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Processes, ports and sockets of a run.
pub(crate) struct Traces {
    /// Ids with the time of their start, which tells them from later ones of the same id.
    processes: Vec<(u32, String)>,
    ports: Vec<u16>,
    data: PathBuf,
}

impl Traces {
    /// The processes whose program has this name.
    pub(crate) fn processes(&self, program: &str) -> Vec<u32> {
        let is = |process: &u32| {
            fs::read_link(format!("/proc/{process}/exe"))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program))
        };
        self.processes.iter().map(|(process, _)| *process).filter(is).collect()
    }

    /// Fails unless the run was whole: one process at least of each of these programs.
    pub(crate) fn have(&self, programs: &[&str]) -> Result<()> {
        for program in programs {
            ensure!(!self.processes(program).is_empty(), "no process of {program} is running");
        }
        Ok(())
    }

    /// What is there now.
    pub(crate) fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (process, started) in &self.processes {
            if Stat::of(*process).is_some_and(|stat| stat.started == *started) {
                let line = fs::read_to_string(format!("/proc/{process}/cmdline"));
                left.push(format!("process {process}: {}", line.unwrap_or_default()));
            }
        }
        // Also those that lost their parent before they were looked for.
        let folder = self.data.display().to_string();
        for process in processes_where(|_| true)? {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&folder) {
                left.push(format!("process {process}: {}", String::from_utf8_lossy(&line)));
            }
        }
        for port in &self.ports {
            if TcpListener::bind(("127.0.0.1", *port)).is_err() {
                left.push(format!("port {port}"));
            }
        }
        sockets(&self.data, &mut left)?;
        if self.data.join("environment").exists() {
            left.push("the environment file".to_owned());
        }
        Ok(left)
    }

    /// Waits until no process and no port is left of a run that was killed, whose processes need some
    /// seconds to stop. It can't remove its environment file.
    pub(crate) async fn processes_are_gone(&self) -> Result<()> {
        let mut left = Vec::new();
        let waited = eventually_within(Duration::from_secs(30), "nothing is left", async || {
            left = self.left()?;
            left.retain(|each| each.starts_with("process") || each.starts_with("port"));
            Ok(left.is_empty())
        });
        waited.await.with_context(|| left.join(", "))
    }
}

fn sockets(folder: &Path, left: &mut Vec<String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_socket() {
            left.push(format!("socket {}", entry.path().display()));
        } else if kind.is_dir() {
            sockets(&entry.path(), left)?;
        }
    }
    Ok(())
}

/// Some fields of `/proc/…/stat`.
struct Stat {
    parent: u32,
    started: String,
}

impl Stat {
    /// None for a process that has ended.
    fn of(process: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        Some(Self { parent: fields.get(1)?.parse().ok()?, started: (*fields.get(19)?).to_owned() })
    }
}

fn processes_where(condition: impl Fn(&Stat) -> bool) -> Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| Stat::of(*process).is_some_and(|stat| condition(&stat)))
        .collect())
}
