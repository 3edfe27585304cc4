//! Which partitions a worker consumes: every n-th, starting at its rank among the live workers.

use shared::amqp::topology::{Phase, Recorded, Topology};

/// What one worker consumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) recorded: Recorded,
    pub(crate) partitions: Vec<u16>,
    /// Whether this worker also parks dead-lettered messages; one of all workers does.
    pub(crate) dead_letters: bool,
}

impl Share {
    /// The share of the worker of this rank among the live ones; none has any while the queues are
    /// closed.
    pub(super) fn of(recorded: Recorded, rank: usize, live: usize) -> Self {
        let all = match recorded.phase {
            Phase::Open | Phase::Draining => 0..recorded.topology.partitions,
            Phase::Closed => 0..0,
        };
        let partitions: Vec<u16> = all.skip(rank).step_by(live).collect();
        Self { recorded, dead_letters: rank == 0 && !partitions.is_empty(), partitions }
    }

    pub(crate) const fn topology(&self) -> &Topology {
        &self.recorded.topology
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(partitions: u16, phase: Phase) -> Recorded {
        let topology =
            Topology { version: 1, partitions, queue_limit: 1, prefetch: 1, wire: 1, arguments: 1 };
        Recorded { topology, phase }
    }

    proptest! {
        #[test]
        fn every_partition_is_one_workers_and_all_have_as_many(
            partitions in 1..=1024_u16,
            live in 1..=40_usize,
        ) {
            let shares: Vec<Share> = (0..live)
                .map(|rank| Share::of(recorded(partitions, Phase::Open), rank, live))
                .collect();
            let mut all: Vec<u16> = shares.iter().flat_map(|s| s.partitions.clone()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..partitions).collect::<Vec<_>>());
            let counts: Vec<usize> = shares.iter().map(|s| s.partitions.len()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            prop_assert_eq!(shares.iter().filter(|s| s.dead_letters).count(), 1);
        }
    }

    #[test]
    fn closed_queues_are_nobodys() {
        let share = Share::of(recorded(8, Phase::Closed), 0, 1);
        assert!(share.partitions.is_empty() && !share.dead_letters);
    }
}
