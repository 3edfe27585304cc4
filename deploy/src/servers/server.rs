//! One server's processes: started with a log, watched, stopped, killed, paused.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{process, say};

/// Time limit for a server to start. RabbitMQ takes 6 to 7 s on an idle machine, and much longer on a busy one.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Time limit for a server to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Time limit for servers of a killed run to stop before they are killed.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(15);
/// A log larger than this is truncated at the next start.
const LARGE_LOG: u64 = 16 << 20;

/// A server and its log.
pub(super) struct Server {
    name: &'static str,
    log: PathBuf,
    stop_signal: Signal,
    child: Mutex<Option<Child>>,
}

impl Server {
    pub(super) fn new(name: &'static str, log: PathBuf, stop_signal: Signal) -> Self {
        Self { name, log, stop_signal, child: Mutex::new(None) }
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Starts the server's process.
    pub(super) fn launch(&self, mut command: Command) -> Result<()> {
        let mut child = self.child();
        if let Some(running) = child.as_mut()
            && running.try_wait()?.is_none()
        {
            bail!("{} is running already", self.name);
        }
        // What it may have left behind, if it ended by itself.
        self.end(&mut child);
        let log = self.open_log().with_context(|| self.log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = process::spawn(command);
        *child = Some(started.with_context(|| format!("{} can't be started", self.name))?);
        Ok(())
    }

    /// Opens the log with a lock that lasts until the last process has closed it.
    ///
    /// All processes of a server inherit it as their output, so that it shows whether any of an earlier
    /// run are still alive: two servers on the same data would destroy it.
    fn open_log(&self) -> Result<File> {
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log)?;
        if !locked_within(&log, Duration::ZERO)? {
            // They are of our own making, since nothing else writes to this file. They are
            // stopping already, unless they were paused when that run was killed.
            process::resume_all(&process::writers_of(&self.log));
        }
        if !locked_within(&log, LEFTOVER_LIMIT)? {
            process::kill_all(&process::writers_of(&self.log));
            if !locked_within(&log, Duration::from_secs(1))? {
                bail!("an earlier {} still runs and can't be stopped", self.name);
            }
        }
        if log.metadata()?.len() > LARGE_LOG {
            log.set_len(0)?;
        }
        Ok(log)
    }

    /// What [`Self::stop`] sends; to be sent at this process's end as well.
    pub(super) fn stop_signal(&self) -> Signal {
        self.stop_signal
    }

    /// Waits until the probe finds the server ready.
    pub(super) fn await_ready(&self, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            if let Some(ended) = self.ended() {
                bail!("{ended} instead of coming up. {}", self.log_end());
            }
            let waited_long = Instant::now() >= end;
            match ready() {
                Ok(true) => return Ok(()),
                Ok(false) if waited_long => {
                    let seconds = START_LIMIT.as_secs();
                    bail!("{} does not answer after {seconds} s. {}", self.name, self.log_end());
                }
                Err(error) if waited_long => return Err(error.context(self.log_end())),
                Ok(false) | Err(_) => thread::sleep(process::POLL),
            }
        }
    }

    fn log_end(&self) -> String {
        let end = tail(&self.log, 3_000).unwrap_or_else(|error| format!("(unreadable: {error})"));
        format!("The end of its log, {}:\n{}", self.log.display(), end.trim())
    }

    /// The id of the server's first process, while it is running.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// How the server ended, if it did so by itself.
    pub(super) fn ended(&self) -> Option<String> {
        let mut child = self.child();
        let status = child.as_mut()?.try_wait().ok()??;
        Some(format!("{} ended with {}", self.name, process::describe(status)))
    }

    /// Asks the server to stop, and does not wait.
    pub(super) fn ask_to_stop(&self) {
        if let Some(child) = self.child().as_mut() {
            process::signal(child, self.stop_signal);
            // If it was paused, it receives the signal only when it is resumed.
            process::thaw_family(child.id());
        }
    }

    /// Stops the server; kills it when it takes too long.
    pub(super) fn stop(&self) {
        self.ask_to_stop();
        let mut child = self.child();
        if let Some(running) = child.as_mut()
            && !matches!(process::wait(running, STOP_LIMIT), Ok(Some(_)))
        {
            say(&format!("{} did not stop and is killed", self.name));
        }
        self.end(&mut child);
    }

    /// Kills all of the server's processes at once (SIGKILL).
    pub(super) fn kill(&self) {
        self.end(&mut self.child());
    }

    fn end(&self, child: &mut Option<Child>) {
        if let Some(mut running) = child.take() {
            if !matches!(running.try_wait(), Ok(Some(_))) {
                process::kill_family(running.id());
                // It was killed: there is nothing to learn from how it ended.
                drop(running.wait());
            }
            // A first process that ended by itself may have left others.
            process::kill_all(&process::writers_of(&self.log));
        }
    }

    /// Stops (SIGSTOP) all of the server's processes: connections stay open, nothing is answered.
    pub(super) fn pause(&self) {
        if let Some(pid) = self.pid() {
            process::freeze_family(pid);
        }
    }

    /// Resumes them.
    pub(super) fn resume(&self) {
        if let Some(pid) = self.pid() {
            process::thaw_family(pid);
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks a file as soon as no other process has it locked; false when that takes too long.
pub(super) fn locked_within(file: &File, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(process::POLL),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

/// The last bytes of a file.
fn tail(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}
