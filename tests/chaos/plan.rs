//! What is broken next: drawn by chance before it is done, so that a seed repeats it.

mod machines;

use std::{fmt, time::Duration};

use shared::wire::{envelope, message};

pub(crate) use self::machines::MachineFault;
use crate::{GATEWAYS, random::Random};

/// Episodes with a change of the version of messages, of a hundred.
const REWIRED: usize = 70;
/// Faults of machines with others at the same time, of a hundred.
const BESIDE: usize = 40;

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    PostgreSql,
    RabbitMq,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PostgreSql => "PostgreSQL",
            Self::RabbitMq => "RabbitMQ",
        })
    }
}

/// What a network does to connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// They are reset, and new ones pass.
    Reset,
    /// They are reset, and new ones too.
    Refuse,
    /// They stay open, and nothing comes through.
    Silence,
    /// Everything comes later by so much.
    Delay(Duration),
}

/// What is broken, and for how long.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A process is killed (SIGKILL) and started again after a while.
    Kill { member: usize, away: Duration },
    /// A process is stalled (SIGSTOP) for a while.
    Stall { member: usize, time: Duration },
    /// A process is stopped (SIGTERM) and restarted.
    Roll { member: usize },
    /// A server is stopped and started again after a while.
    Restart { server: Server, away: Duration },
    /// A server is killed (SIGKILL) and started again after a while.
    KillServer { server: Server, away: Duration },
    /// A server is stalled (SIGSTOP) for a while.
    StallServer { server: Server, time: Duration },
    /// The wires of some processes to a server are cut.
    Cut { members: Vec<usize>, server: Server, cut: Cut, time: Duration },
    /// RabbitMQ is short of memory for a while.
    Alarm { time: Duration },
    /// The number of partitions is changed; the command may be killed before it is done.
    Reshape { partitions: u16, killed_after: Option<Duration> },
    /// The newest version of messages that gateways write is changed; likewise.
    Rewire { version: u16, killed_after: Option<Duration> },
    /// Of several machines that do the same, one or more fail.
    Machine(MachineFault),
}

impl Fault {
    /// Of which kind it is, in the words of the table.
    pub(crate) fn kind(&self) -> &'static str {
        let of_role = |member: &usize, gateway: &'static str, worker: &'static str| {
            if *member < GATEWAYS { gateway } else { worker }
        };
        let of_server =
            |server: &Server, postgresql: &'static str, rabbitmq: &'static str| match server {
                Server::PostgreSql => postgresql,
                Server::RabbitMq => rabbitmq,
            };
        match self {
            Self::Kill { member, .. } => of_role(member, "gateway killed", "worker killed"),
            Self::Stall { member, .. } => of_role(member, "gateway stalled", "worker stalled"),
            Self::Roll { member } => of_role(member, "gateway restarted", "worker restarted"),
            Self::Restart { server, .. } => {
                of_server(server, "PostgreSQL restarted", "RabbitMQ restarted")
            }
            Self::KillServer { server, .. } => {
                of_server(server, "PostgreSQL killed", "RabbitMQ killed")
            }
            Self::StallServer { server, .. } => {
                of_server(server, "PostgreSQL stalled", "RabbitMQ stalled")
            }
            Self::Cut { server, .. } => of_server(
                server,
                "networks to PostgreSQL cut, silenced or delayed",
                "networks to RabbitMQ cut, silenced or delayed",
            ),
            Self::Alarm { .. } => "RabbitMQ short of memory",
            Self::Reshape { .. } => "number of partitions changed",
            Self::Rewire { .. } => "version of messages changed",
            Self::Machine(fault) => fault.kind(),
        }
    }

    /// Whether it is one of a server, rather than of processes and what is between them and the servers.
    fn is_of_server(&self) -> bool {
        match self {
            Self::Restart { .. }
            | Self::KillServer { .. }
            | Self::StallServer { .. }
            | Self::Alarm { .. }
            | Self::Machine(_) => true,
            Self::Kill { .. }
            | Self::Stall { .. }
            | Self::Roll { .. }
            | Self::Cut { .. }
            | Self::Reshape { .. }
            | Self::Rewire { .. } => false,
        }
    }

    /// What no other fault may touch at the same time.
    fn touches(&self) -> Vec<String> {
        match self {
            Self::Kill { member, .. } | Self::Stall { member, .. } | Self::Roll { member } => {
                vec![format!("process {member}")]
            }
            Self::Restart { server, .. }
            | Self::KillServer { server, .. }
            | Self::StallServer { server, .. } => vec![server.to_string()],
            Self::Cut { members, server, .. } => {
                members.iter().map(|member| format!("wire {member} {server}")).collect()
            }
            // It asks the server's own tool.
            Self::Alarm { .. } => vec![Server::RabbitMq.to_string()],
            Self::Reshape { .. } | Self::Rewire { .. } => vec!["topology".to_owned()],
            Self::Machine(fault) => vec![fault.server().to_string()],
        }
    }
}

/// Faults that overlap, each with the time of its beginning.
pub(crate) struct Episode {
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// How long all is well afterwards.
    pub(crate) quiet: Duration,
}

/// What is broken in a run. It ends with the run's time, unless it has an end of its own.
pub(crate) enum Plan {
    /// One machine of each kind, with so many processes.
    OneMachine { random: Random, members: usize },
    /// Several machines; these faults of theirs are next.
    Machines { random: Random, members: usize, next: Vec<MachineFault> },
    /// Several machines, for a moment: these times of trouble, the last one first.
    Smoke(Vec<Episode>),
}

impl Plan {
    /// Each kind of machine fails, in little time.
    pub(crate) fn smoke(mut random: Random) -> Self {
        Self::Smoke(MachineFault::some_at_once(&mut random).map(Episode::at_once).into())
    }

    /// The next faults; none when nothing more is to be broken.
    pub(crate) fn next(&mut self) -> Option<Episode> {
        match self {
            Self::OneMachine { random, members } => Some(Episode::draw(random, *members)),
            Self::Machines { random, members, next } => {
                if next.is_empty() {
                    *next = MachineFault::one_of_each(random);
                }
                Some(Episode::of_machines(next.pop(), random, *members))
            }
            Self::Smoke(next) => next.pop(),
        }
    }
}

impl Episode {
    /// Faults that begin together.
    fn at_once(faults: [MachineFault; 2]) -> Self {
        let faults = faults.map(|fault| (Duration::ZERO, Fault::Machine(fault)));
        Self { faults: faults.into(), quiet: Duration::ZERO }
    }

    /// A fault of machines, perhaps with other faults at the same time.
    fn of_machines(fault: Option<MachineFault>, random: &mut Random, members: usize) -> Self {
        let mut episode = if random.percent(BESIDE) {
            Self::draw(random, members)
        } else {
            Self { faults: Vec::new(), quiet: random.millis(200, 2_500) }
        };
        episode.faults.retain(|(_, fault)| !fault.is_of_server());
        let others = episode.faults.iter().map(|(begin, _)| *begin).min().unwrap_or_default();
        episode.faults.iter_mut().for_each(|(begin, _)| *begin -= others);
        episode.faults.extend(fault.map(|fault| (random.millis(0, 500), Fault::Machine(fault))));
        episode
    }

    /// Draws one, for so many processes.
    fn draw(random: &mut Random, members: usize) -> Self {
        let count = match random.below(100) {
            0..40 => 1,
            40..75 => 2,
            75..92 => 3,
            _ => 5,
        };
        let mut faults: Vec<(Duration, Fault)> = Vec::new();
        let mut touched: Vec<String> = Vec::new();
        for number in 0..count + usize::from(random.percent(REWIRED)) {
            let begin = if faults.is_empty() { Duration::ZERO } else { random.millis(0, 4_000) };
            let fault = if number < count { draw_fault(random, members) } else { rewire(random) };
            let touches = fault.touches();
            if touches.iter().all(|each| !touched.contains(each)) {
                touched.extend(touches);
                faults.push((begin, fault));
            }
        }
        Self { faults, quiet: random.millis(200, 2_500) }
    }
}

fn draw_fault(random: &mut Random, members: usize) -> Fault {
    let member = random.below(members);
    let server = if random.percent(50) { Server::PostgreSql } else { Server::RabbitMq };
    let away = if random.percent(40) { Duration::ZERO } else { random.millis(0, 5_000) };
    let time = stall(random);
    match random.below(100) {
        0..24 => Fault::Kill { member, away },
        24..38 => Fault::Stall { member, time },
        38..48 => Fault::Roll { member },
        48..54 => Fault::Restart { server, away },
        54..60 => Fault::KillServer { server, away },
        60..67 => Fault::StallServer { server, time: time.min(Duration::from_secs(12)) },
        67..85 => draw_cut(random, members, server),
        85..90 => Fault::Alarm { time: random.millis(500, 12_000) },
        _ => Fault::Reshape {
            partitions: 1 + random.below(16) as u16,
            killed_after: random.percent(40).then(|| random.millis(0, 4_000)),
        },
    }
}

/// The version may be the recorded one already.
fn rewire(random: &mut Random) -> Fault {
    let version = match random.below(5) {
        0 => message::VERSION,
        1 => envelope::VERSION,
        _ => message::REPORTS,
    };
    Fault::Rewire { version, killed_after: random.percent(20).then(|| random.millis(0, 4_000)) }
}

/// Short ones, around the limits of the workers (3 s, 5 s), and long ones.
fn stall(random: &mut Random) -> Duration {
    match random.below(100) {
        0..30 => random.millis(1_000, 2_500),
        30..70 => random.millis(2_500, 7_000),
        _ => random.millis(7_000, 20_000),
    }
}

fn draw_cut(random: &mut Random, members: usize, server: Server) -> Fault {
    let one = random.below(members);
    let members = if random.percent(65) { vec![one] } else { (0..members).collect() };
    let cut = match random.below(4) {
        0 => Cut::Reset,
        1 => Cut::Refuse,
        2 => Cut::Silence,
        _ => Cut::Delay(random.millis(5, 400)),
    };
    let time = match cut {
        Cut::Reset => Duration::ZERO,
        Cut::Refuse | Cut::Silence | Cut::Delay(_) => stall(random).min(Duration::from_secs(12)),
    };
    Fault::Cut { members, server, cut, time }
}
