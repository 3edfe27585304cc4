//! Faults of several machines that do the same.

use std::time::Duration;

use super::{Server, stall};
use crate::{machines::Loss, random::Random};

/// The nodes of RabbitMQ.
const NODES: usize = 3;

/// What fails of several machines, and for how long.
#[derive(Clone, Debug)]
pub(crate) enum MachineFault {
    /// Nodes of RabbitMQ are killed (SIGKILL) and started again after a while.
    KillNodes { nodes: Vec<usize>, away: Duration },
    /// A node of RabbitMQ is stalled (SIGSTOP) for a while.
    StallNode { node: usize, time: Duration },
    /// A node of RabbitMQ and the others don't reach each other for a while; clients reach all of them.
    CutOffNode { node: usize, time: Duration },
    /// Nodes of RabbitMQ are stopped and started again after a while, one after the other.
    RestartNodes { nodes: Vec<usize>, away: Duration },
    /// PostgreSQL's primary is lost, and its standby promoted after a while. The old primary comes back, and
    /// runs beside the new one for some time before it follows it.
    FailOver { loss: Loss, away: Duration, beside: Duration },
    /// PostgreSQL's primary is killed (SIGKILL) and started again after a while.
    RestartPrimary { away: Duration },
    /// PostgreSQL's standby, for which commits wait, is lost for a while.
    LoseStandby { loss: Loss, time: Duration },
}

impl MachineFault {
    /// One of each kind, in any order.
    pub(super) fn one_of_each(random: &mut Random) -> Vec<Self> {
        let mut nodes: Vec<usize> = (0..NODES).collect();
        shuffle(&mut nodes, random);
        let [one, two, ..] = nodes[..] else { return Vec::new() };
        let mut away = || random.millis(0, 6_000);
        let mut faults = vec![
            Self::KillNodes { nodes: vec![one], away: away() },
            Self::KillNodes { nodes: vec![one, two], away: away() },
            Self::RestartNodes { nodes: vec![two], away: away() },
            Self::RestartNodes { nodes: nodes.clone(), away: Duration::ZERO },
            Self::FailOver { loss: Loss::Killed, away: away(), beside: away() },
            Self::FailOver { loss: Loss::Stalled, away: away(), beside: away() },
            Self::RestartPrimary { away: away() },
            Self::LoseStandby { loss: Loss::Killed, time: away() },
            Self::LoseStandby { loss: Loss::Stalled, time: away() },
        ];
        faults.push(Self::StallNode { node: two, time: stall(random) });
        faults.push(Self::CutOffNode { node: one, time: stall(random) });
        shuffle(&mut faults, random);
        faults
    }

    /// Two times of trouble, each with a fault of RabbitMQ and one of PostgreSQL. Restarts of all nodes and stalls
    /// are left out, since they take long.
    pub(super) fn some_at_once(random: &mut Random) -> [[Self; 2]; 2] {
        let node = random.below(NODES);
        let another = (node + 1) % NODES;
        let [short, long] = [1, 3].map(Duration::from_secs);
        let fail_over = Self::FailOver { loss: Loss::Killed, away: short, beside: short };
        let lose_standby = Self::LoseStandby { loss: Loss::Killed, time: long };
        [
            [Self::KillNodes { nodes: vec![node, another], away: long }, lose_standby],
            [Self::KillNodes { nodes: vec![node], away: long }, fail_over],
        ]
    }

    /// Of which kind it is, in the words of the table.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::KillNodes { nodes, .. } if nodes.len() == 1 => "one RabbitMQ node killed",
            Self::KillNodes { .. } => "two RabbitMQ nodes killed",
            Self::StallNode { .. } => "one RabbitMQ node stalled",
            Self::CutOffNode { .. } => "one RabbitMQ node cut off",
            Self::RestartNodes { nodes, .. } if nodes.len() == 1 => "one RabbitMQ node restarted",
            Self::RestartNodes { .. } => "all RabbitMQ nodes restarted, one after the other",
            Self::FailOver { loss: Loss::Killed, .. } => "primary killed, standby promoted",
            Self::FailOver { loss: Loss::Stalled, .. } => "primary stalled, standby promoted",
            Self::RestartPrimary { .. } => "primary killed and started again",
            Self::LoseStandby { loss: Loss::Killed, .. } => "standby killed",
            Self::LoseStandby { loss: Loss::Stalled, .. } => "standby stalled",
        }
    }

    pub(super) const fn server(&self) -> Server {
        match self {
            Self::KillNodes { .. }
            | Self::StallNode { .. }
            | Self::CutOffNode { .. }
            | Self::RestartNodes { .. } => Server::RabbitMq,
            Self::FailOver { .. } | Self::RestartPrimary { .. } | Self::LoseStandby { .. } => {
                Server::PostgreSql
            }
        }
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for place in (1..items.len()).rev() {
        items.swap(place, random.below(place + 1));
    }
}
