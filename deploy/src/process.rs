//! Child processes that don't outlive this one, and signals to all of a server's processes.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often a process that is expected to start or to end is checked.
pub(crate) const POLL: Duration = Duration::from_millis(20);

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns a child from a thread that lives as long as this process.
///
/// The signal that [`dying_with_us`] asks for is sent when the *thread* that spawned the child
/// ends. So a server that a test restarts from its own thread would end with that test; all
/// children are spawned from one thread that never ends instead.
///
/// # Errors
/// When the program can't be run.
pub fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // The caller waits for the reply, so the channel is open.
                drop(reply.send(command.spawn()));
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the thread that spawns processes has ended");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// A command whose process gets the signal when this process ends, however it ends, and that a
/// Ctrl-C in the terminal does not reach. To be run by [`spawn`].
#[must_use]
pub fn dying_with_us(program: impl AsRef<OsStr>, signal: Signal) -> Command {
    dying_with_us_as(&[], program, signal)
}

/// The same as another user, which `setpriv` gets as options. It takes both at once, since
/// changing the user clears the signal.
pub(crate) fn dying_with_us_as(
    user: &[String],
    program: impl AsRef<OsStr>,
    signal: Signal,
) -> Command {
    let mut command = Command::new("setpriv");
    let name = signal.as_str().trim_start_matches("SIG");
    command.args(user).args(["--pdeathsig", name, "--"]).arg(program).process_group(0);
    command
}

/// Sends a signal to a child. One that has ended is no error, and its id, which may be another
/// process's by now, is left alone.
pub fn signal(child: &mut Child, signal: Signal) {
    if matches!(child.try_wait(), Ok(None)) {
        send(child.id(), signal);
    }
}

fn send(process: u32, signal: Signal) {
    if let Ok(process) = i32::try_from(process) {
        // The only error here is that the process has ended: all of them are our own.
        kill(Pid::from_raw(process), signal).ok();
    }
}

/// Waits for a child to end; none when it has not by the limit.
///
/// # Errors
/// When it is no child of ours.
pub fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= end {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
}

/// How a process ended, in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => format!("signal {number}"),
        },
        (None, None) => status.to_string(),
    }
}

/// Stops (SIGSTOP) a process and all that it started, so that none of them can start another.
/// Returns them.
pub(crate) fn freeze_family(root: u32) -> Vec<u32> {
    let mut frozen = Vec::new();
    loop {
        let fresh: Vec<u32> =
            family(root, &running()).into_iter().filter(|pid| !frozen.contains(pid)).collect();
        if fresh.is_empty() {
            return frozen;
        }
        // The root comes first: what has stopped starts nothing.
        for process in &fresh {
            send(*process, Signal::SIGSTOP);
        }
        frozen.extend(fresh);
    }
}

/// Resumes a process and its descendants after [`freeze_family`].
pub(crate) fn thaw_family(root: u32) {
    resume_all(&family(root, &running()));
}

/// Resumes stopped (SIGSTOP) processes.
pub(crate) fn resume_all(processes: &[u32]) {
    for process in processes {
        send(*process, Signal::SIGCONT);
    }
}

/// Kills a process and all that it started, at once, and waits until they are gone.
pub(crate) fn kill_family(root: u32) {
    kill_all(&freeze_family(root));
}

/// Kills processes (SIGKILL, which also ends stopped ones) and waits until they are gone.
pub(crate) fn kill_all(processes: &[u32]) {
    for process in processes {
        send(*process, Signal::SIGKILL);
    }
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end && running().iter().any(|each| processes.contains(&each.pid)) {
        thread::sleep(POLL);
    }
}

/// The processes whose standard output or error is this file.
pub(crate) fn writers_of(file: &Path) -> Vec<u32> {
    let writes = |pid: u32, descriptor: u8| {
        fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).is_ok_and(|target| target == file)
    };
    running().iter().map(|each| each.pid).filter(|pid| writes(*pid, 1) || writes(*pid, 2)).collect()
}

/// A process as `/proc` shows it.
struct Running {
    pid: u32,
    parent: u32,
    group: u32,
}

/// All processes, but not those that have ended and only wait to be noticed.
fn running() -> Vec<Running> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        })
        .collect()
}

/// Reads `pid (name) state parent group …`; a name may hold spaces and brackets.
fn parse_stat(pid: u32, stat: &str) -> Option<Running> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (state != "Z" && state != "X").then_some(Running { pid, parent, group })
}

/// A process with its descendants, found by parent and also by process group: a descendant whose
/// parent has died has another one now, but still its group.
fn family(root: u32, running: &[Running]) -> Vec<u32> {
    let mut members = vec![root];
    let mut next = 0;
    while let Some(&member) = members.get(next) {
        for each in running {
            let related = each.parent == member || (member == root && each.group == root);
            if related && !members.contains(&each.pid) {
                members.push(each.pid);
            }
        }
        next += 1;
    }
    members.retain(|pid| running.iter().any(|each| each.pid == *pid));
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_look_like_fields() {
        let read = parse_stat(7, "7 (a) Z 1 (b) S 3 4 4 0 -1").unwrap();
        assert_eq!((read.pid, read.parent, read.group), (7, 3, 4));
        assert!(parse_stat(7, "7 (ended) Z 3 4 4").is_none());
    }

    #[test]
    fn a_family_is_found_by_parents_and_by_group() {
        let process = |pid, parent, group| Running { pid, parent, group };
        // 10 started 11, which started 12 in a group of its own; 13 has lost its parent.
        let running = [process(10, 1, 10), process(11, 10, 10), process(12, 11, 12)];
        let orphan = [process(13, 1, 10), process(14, 1, 14)];
        let all: Vec<_> = running.into_iter().chain(orphan).collect();
        assert_eq!(family(10, &all), [10, 11, 13, 12]);
        assert_eq!(family(14, &all), [14]);
        assert!(family(99, &all).is_empty());
    }
}
