//! What a worker reports about itself: to the program that starts it, as services report to systemd. This needs no
//! setting; over HTTP, a worker says only with one whether it is ready.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{self, Command},
};

/// The socket that a worker reports to, until this is dropped.
pub(super) struct Reports {
    socket: UnixDatagram,
    is_ready: bool,
    /// What it waits for.
    status: String,
}

impl Reports {
    /// Has the program that is to be started report to a socket of this name and process.
    pub(super) fn of(name: &str, command: &mut Command) -> io::Result<Self> {
        let name = format!("status-dashboard {} {name}", process::id());
        // An abstract one: it has no path, which could be too long for a socket, and leaves no file.
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        // Nobody here watches whether it is alive.
        command.env("NOTIFY_SOCKET", format!("@{name}")).env_remove("WATCHDOG_USEC");
        Ok(Self { socket, is_ready: false, status: "it has said nothing".to_owned() })
    }

    /// Whether the program has ever been ready; if not, what it said last.
    pub(super) fn readiness(&mut self) -> Result<(), &str> {
        let mut report = [0; 4_096];
        // The error is that there is no further report now.
        while let Ok(length) = self.socket.recv(&mut report) {
            let report = String::from_utf8_lossy(report.get(..length).unwrap_or_default());
            for line in report.lines() {
                match line.split_once('=') {
                    Some(("READY", "1")) => self.is_ready = true,
                    Some(("STATUS", status)) => status.clone_into(&mut self.status),
                    Some(_) | None => {}
                }
            }
        }
        if self.is_ready { Ok(()) } else { Err(&self.status) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a report as a worker does.
    fn send(command: &Command, report: &str) {
        let (_, name) = command.get_envs().find(|(name, _)| *name == "NOTIFY_SOCKET").unwrap();
        let name = name.unwrap().to_str().unwrap().strip_prefix('@').unwrap();
        let address = SocketAddr::from_abstract_name(name).unwrap();
        UnixDatagram::unbound().unwrap().send_to_addr(report.as_bytes(), &address).unwrap();
    }

    #[test]
    fn a_worker_is_ready_once_it_has_said_so() {
        let mut command = Command::new("worker");
        let mut reports = Reports::of("a test", &mut command).unwrap();
        assert_eq!(reports.readiness(), Err("it has said nothing"));
        send(&command, "STATUS=Not ready: RabbitMQ has not answered yet");
        assert_eq!(reports.readiness(), Err("Not ready: RabbitMQ has not answered yet"));
        send(&command, "READY=1\nSTATUS=");
        assert_eq!(reports.readiness(), Ok(()));
        send(&command, "STOPPING=1");
        assert_eq!(reports.readiness(), Ok(()));
    }
}
