//! What the programs report to a service manager, as systemd reads it of a service with `Type=notify`.

use std::{
    io::ErrorKind,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use harness::{Fixture, Process, System, eventually, proxy::Proxy, tests};

tests!(
    both_programs_report_that_they_are_ready_alive_and_stopping,
    a_program_is_ready_once_its_servers_answer,
    a_service_manager_that_takes_nothing_stops_no_program,
);

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
    /// As `NOTIFY_SOCKET` names it.
    name: String,
    /// What has arrived: each line of a datagram.
    reports: Vec<String>,
}

impl Manager {
    /// With an abstract socket, or one with a path, which must be short.
    fn new(fixture: &Fixture, name: &str, is_abstract: bool) -> Result<Self> {
        let (socket, name) = if is_abstract {
            let name = format!("{}-{name}", fixture.name);
            let address = SocketAddr::from_abstract_name(&name)?;
            (UnixDatagram::bind_addr(&address)?, format!("@{name}"))
        } else {
            let path = std::env::temp_dir().join(format!("sdb-{}-{name}", std::process::id()));
            let name = path.to_str().context("no text")?.to_owned();
            (UnixDatagram::bind(path)?, name)
        };
        socket.set_nonblocking(true)?;
        Ok(Self { socket, name, reports: Vec::new() })
    }

    /// Takes what has arrived.
    fn take(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(size) => {
                    let text = std::str::from_utf8(&buffer[..size])?;
                    self.reports.extend(text.lines().map(str::to_owned));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a line that begins like this.
    async fn is_told(&mut self, line: &str) -> Result<()> {
        eventually("the service manager has the report", async || {
            self.take()?;
            Ok(self.has(line))
        })
        .await
        .with_context(|| format!("{line}: {:?}", self.reports))
    }

    fn has(&self, line: &str) -> bool {
        self.reports.iter().any(|report| report.starts_with(line))
    }

    /// Fills the socket, so that it takes nothing until `take`.
    fn fill(&self) -> Result<()> {
        let sender = UnixDatagram::unbound()?;
        sender.set_nonblocking(true)?;
        let address = self.socket.local_addr()?;
        loop {
            match sender.send_to_addr(b"FILL=1", &address) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // An abstract one has no file.
        std::fs::remove_file(&self.name).ok();
    }
}

async fn ended(process: &mut Process) -> Result<()> {
    process.signal(Signal::SIGTERM)?;
    let status = process.ended().await?;
    ensure!(status.success(), "{status}: {}", process.log()?);
    Ok(())
}

async fn both_programs_report_that_they_are_ready_alive_and_stopping(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    for (program, is_abstract) in [("gateway", false), ("worker", true)] {
        let mut manager = Manager::new(&fixture, program, is_abstract)?;
        let (socket, time) = (manager.name.clone(), ("WATCHDOG_USEC", "200000"));
        let mut process = system.launch(program, &[("NOTIFY_SOCKET", &socket), time])?;
        manager.is_told("WATCHDOG=1").await?;
        ended(&mut process).await?;
        manager.take()?;
        let reports = &manager.reports;
        let at = |line: &str| reports.iter().position(|report| report == line);
        ensure!(at("READY=1") < at("WATCHDOG=1") && at("READY=1").is_some(), "{reports:?}");
        ensure!(reports.iter().filter(|report| *report == "READY=1").count() == 1, "{reports:?}");
        // The process may say once more that it is alive, while it hears of its stop.
        let last = reports.iter().rfind(|report| *report != "WATCHDOG=1");
        ensure!(last.is_some_and(|last| last == "STOPPING=1"), "{reports:?}");

        // Another process is watched, or none.
        for more in [&[time, ("WATCHDOG_PID", "1")][..], &[]] {
            manager.reports.clear();
            let variables = [&[("NOTIFY_SOCKET", socket.as_str())], more].concat();
            let mut process = system.launch(program, &variables)?;
            manager.is_told("READY=1").await?;
            ended(&mut process).await?;
            manager.take()?;
            ensure!(manager.has("STOPPING=1") && !manager.has("WATCHDOG"), "{:?}", manager.reports);
        }
    }
    system.finish_with_parked()
}

async fn a_program_is_ready_once_its_servers_answer(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let database = Proxy::before(&system.database_uri).await?;
    let broker = Proxy::before(&system.amqp_uri).await?;
    for (program, setting, proxy, says) in [
        ("gateway", "SDB_DATABASE_URI", &database, "the catalogue was not read yet"),
        ("worker", "SDB_DATABASE_URI", &database, "PostgreSQL has not answered yet"),
        ("worker", "SDB_AMQP_URI", &broker, "RabbitMQ"),
    ] {
        let mut manager = Manager::new(&fixture, &format!("{program}-{setting}"), true)?;
        let name = manager.name.clone();
        proxy.cut();
        let variables = [("NOTIFY_SOCKET", name.as_str()), (setting, proxy.uri())];
        let mut process = system.launch(program, &variables)?;
        manager.is_told("STATUS=Not ready: ").await?;
        eventually("it says what is missing", async || {
            manager.take()?;
            Ok(manager.reports.iter().any(|report| report.contains(says)))
        })
        .await?;
        ensure!(!manager.has("READY"), "{:?}", manager.reports);
        ensure!(process.is_running()?, "{}", process.log()?);
        proxy.pass();
        manager.is_told("READY=1").await?;
        ensure!(manager.reports.last().is_some_and(|last| last == "STATUS="), "it is still shown");
        ended(&mut process).await?;
    }
    system.finish_with_parked()
}

async fn a_service_manager_that_takes_nothing_stops_no_program(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let mut manager = Manager::new(&fixture, "stuck", true)?;
    let (stuck, absent) = (manager.name.clone(), "/none");
    manager.fill()?;
    for socket in [stuck.as_str(), absent] {
        let variables = [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "200000")];
        system.start_worker(&variables).await?;
        system.start_gateway(&variables).await?;
    }
    system.components(&[("DNS", &[])]).await?;
    let answer = system.post(&serde_json::json!({ "name": "DNS", "impact": 1 })).await?;
    ensure!(answer.status == 201, "{answer:?}");
    for process in system.workers.iter().chain(&system.gateways) {
        eventually("it says so", async || {
            Ok(process.log()?.contains("the service manager does not take a report"))
        })
        .await?;
    }
    // A report that was not taken is sent again later.
    manager.is_told("READY=1").await?;
    system.finish().await
}
