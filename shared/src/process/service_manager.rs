//! Reports to the service manager, as systemd expects it of a service with `Type=notify`: that the process is
//! ready, that it is alive, that it stops. Without a service manager that asks for it, nothing is done.
//!
//! By hand: the usual crates send with a socket that blocks, and a service manager that is stuck would
//! stall the only thread of a worker.

use std::{
    env,
    ffi::OsString,
    future::{Future, pending},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use tokio::time::sleep;

use crate::{process::supervise, telemetry::chain, throttled};

/// Pause between two looks at the readiness of a process that is starting.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Reports the process to the service manager while it runs. `readiness` is asked until the process is ready
/// for the first time; its error says what is missing.
///
/// The watchdog gets a report that the process is alive as long as the runtime runs tasks, which is also what
/// `/healthz` shows. A server that is away is no reason for a restart.
pub fn report<R>(readiness: impl Fn() -> R + Send + 'static)
where
    R: Future<Output = Result<(), String>> + Send,
{
    let Some(manager) = ServiceManager::of_environment() else { return };
    supervise::spawn("service manager", async move {
        let stop = supervise::stop();
        tokio::select! {
            // No report of a living process after that of its stop.
            biased;
            () = stop.cancelled() => {}
            () = manager.attend(readiness) => {}
        }
    });
}

/// Reports that the process is stopping.
pub(crate) fn stopping() {
    if let Some(manager) = ServiceManager::of_environment() {
        manager.send("STOPPING=1");
    }
}

/// The service manager that has started this process.
struct ServiceManager {
    /// Its socket: a path, or the name of an abstract one after an `@`.
    socket: OsString,
    /// The time after which it takes a silent process for dead.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    fn of_environment() -> Option<Self> {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // A process that was started by the one that is watched inherits its variables.
        let own = u64::from(std::process::id());
        let is_watched = number("WATCHDOG_PID").is_none_or(|watched| watched == own);
        let watchdog = number("WATCHDOG_USEC").filter(|time| is_watched && *time > 0);
        Some(Self { socket, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// Reports while the process runs.
    async fn attend<R>(&self, readiness: impl Fn() -> R)
    where
        R: Future<Output = Result<(), String>>,
    {
        let mut reported = String::new();
        loop {
            match readiness().await {
                // A report that was not taken is sent again: a start must not wait for it forever.
                Ok(()) if self.send("READY=1\nSTATUS=") => break,
                Ok(()) => {}
                Err(missing) => {
                    // A line is a variable.
                    let status = format!("STATUS=Not ready: {}", missing.replace('\n', " "));
                    if status != reported && self.send(&status) {
                        reported = status;
                    }
                }
            }
            sleep(LOOK_EVERY).await;
        }
        let Some(time) = self.watchdog else { return pending().await };
        loop {
            self.send("WATCHDOG=1");
            sleep(time / 2).await;
        }
    }

    /// Whether a report is sent.
    fn send(&self, report: &str) -> bool {
        let sent = self.try_send(report);
        if let Err(error) = &sent {
            let reason = chain(error);
            throttled!(
                warn,
                &reason,
                reason,
                "the service manager does not take a report: {report:?}"
            );
        }
        sent.is_ok()
    }

    fn try_send(&self, report: &str) -> io::Result<()> {
        let address = match self.socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // A datagram is sent whole or not at all.
        socket.send_to_addr(report.as_bytes(), &address).map(drop)
    }
}
