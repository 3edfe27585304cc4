//! A circuit breaker for waiting: requests wait for outcomes only while outcomes arrive.
//!
//! Without a worker every client would wait until its deadline and then get the 202 that it could have
//! had at once. So if no outcome has arrived for [`OPEN_AFTER`] although one was awaited all that time,
//! the breaker opens, and none is awaited until one arrives again:
//!
//! - for a component: its updates may be blocked alone, by a row that another session has locked;
//! - for a partition, once it is open for two of its components: it may have no worker;
//! - for all partitions, once it is open for two, and no outcome of any other has arrived meanwhile.
//!
//! While it is open, one update of each partition is a *probe*: its outcome is requested, and once it
//! arrives, the next updates wait again. A probe is replaced by a newer one every second, so that
//! outcomes of a backlog, which do not predict that of a new update, do not count.

use std::{collections::HashMap, time::Duration};

use shared::domain::{component::ComponentId, update_id::UpdateId};
use tokio::time::Instant;

/// Time without an outcome, while one is awaited, after which none is expected.
const OPEN_AFTER: Duration = Duration::from_secs(1);
/// Time after which a probe is replaced.
const PROBE_LIFETIME: Duration = Duration::from_secs(1);

/// The outcomes that are awaited and have not arrived.
#[derive(Default)]
pub(crate) struct CircuitBreaker {
    partitions: HashMap<u16, PartitionState>,
    /// Partitions with an awaited outcome, since the last outcome of any partition.
    all: AwaitedSince<u16>,
}

#[derive(Default)]
struct PartitionState {
    /// Components with an awaited outcome, since the last outcome of the partition.
    components: AwaitedSince<ComponentId>,
    /// An update whose outcome would close the breaker, with the time when it was sent.
    probe: Option<(UpdateId, Instant)>,
}

/// Up to two keys for which an outcome is awaited, each with the time since when. More are not needed.
struct AwaitedSince<K>([Option<(K, Instant)>; 2]);

impl<K> Default for AwaitedSince<K> {
    fn default() -> Self {
        Self([None, None])
    }
}

impl<K: Copy + Eq> AwaitedSince<K> {
    fn awaits(&mut self, one: K, now: Instant) {
        for place in &mut self.0 {
            match place {
                Some((other, _)) if *other == one => return,
                Some(_) => {}
                None => {
                    *place = Some((one, now));
                    return;
                }
            }
        }
    }

    /// No outcome of this one is awaited any more.
    fn forget(&mut self, one: K) {
        for place in &mut self.0 {
            *place = place.filter(|(other, _)| *other != one);
        }
    }

    fn overdue(&self, now: Instant) -> impl Iterator<Item = K> {
        let awaited = self.0.iter().flatten();
        awaited.filter(move |(_, since)| *since + OPEN_AFTER <= now).map(|(one, _)| *one)
    }

    fn are_all_overdue(&self, now: Instant) -> bool {
        self.overdue(now).count() == self.0.len()
    }
}

impl CircuitBreaker {
    /// Whether the outcome of an update is expected to arrive in time: whether the breaker is closed for
    /// it.
    pub(crate) fn expects_outcome(
        &self,
        partition: u16,
        component: ComponentId,
        now: Instant,
    ) -> bool {
        let is_overdue = self.partitions.get(&partition).is_some_and(|partition| {
            let components = &partition.components;
            components.are_all_overdue(now) || components.overdue(now).any(|one| one == component)
        });
        !is_overdue && !self.all.are_all_overdue(now)
    }

    /// The outcome of an update that was accepted is awaited from now on.
    pub(crate) fn outcome_awaited(&mut self, partition: u16, component: ComponentId, now: Instant) {
        self.all.awaits(partition, now);
        self.partitions.entry(partition).or_default().components.awaits(component, now);
    }

    /// The outcome of an awaited update or of a probe arrived.
    pub(crate) fn outcome_arrived(&mut self, partition: u16, id: UpdateId) {
        self.all = AwaitedSince::default();
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.components = AwaitedSince::default();
            partition.probe = partition.probe.filter(|(probe, _)| *probe != id);
        }
    }

    /// No awaited outcome of this partition, nor that of its probe, can arrive any more.
    pub(crate) fn outcomes_lost(&mut self, partition: u16) {
        self.partitions.remove(&partition);
        self.all.forget(partition);
    }

    /// Makes an update the probe of its partition, unless there is one that was sent just now.
    ///
    /// Returns whether it is the probe now, and the update that it replaced.
    pub(crate) fn probe(
        &mut self,
        partition: u16,
        id: UpdateId,
        now: Instant,
    ) -> (bool, Option<UpdateId>) {
        let probe = &mut self.partitions.entry(partition).or_default().probe;
        if probe.is_some_and(|(_, sent)| now < sent + PROBE_LIFETIME) {
            return (false, None);
        }
        (true, probe.replace((id, now)).map(|(id, _)| id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ComponentId = ComponentId(1);
    const B: ComponentId = ComponentId(2);
    const C: ComponentId = ComponentId(3);

    fn id(number: u128) -> UpdateId {
        UpdateId(uuid::Uuid::from_u128(number))
    }

    /// Instants a second apart.
    fn seconds() -> impl Fn(u64) -> Instant {
        let begin = Instant::now();
        move |seconds| begin + Duration::from_secs(seconds)
    }

    #[test]
    fn outcomes_are_expected_at_first_and_while_they_come() {
        let (mut breaker, at) = (CircuitBreaker::default(), seconds());
        assert!(breaker.expects_outcome(0, A, at(0)) && breaker.expects_outcome(0, A, at(1_000)));
        for second in 0..100 {
            breaker.outcome_awaited(0, A, at(second));
            breaker.outcome_arrived(0, id(1));
            assert!(breaker.expects_outcome(0, A, at(second + 50)));
        }
    }

    #[test]
    fn a_component_that_is_held_up_holds_up_no_other() {
        let (mut breaker, at) = (CircuitBreaker::default(), seconds());
        breaker.outcome_awaited(0, A, at(0));
        assert!(breaker.expects_outcome(0, A, at(0)), "not at once");
        for second in 1..100 {
            assert!(!breaker.expects_outcome(0, A, at(second)));
            assert!(breaker.expects_outcome(0, B, at(second)), "the same partition");
            assert!(breaker.expects_outcome(1, C, at(second)), "another one");
        }
        // An outcome of another partition says nothing about this one.
        breaker.outcome_arrived(1, id(1));
        assert!(!breaker.expects_outcome(0, A, at(100)) && breaker.expects_outcome(1, C, at(100)));
        breaker.outcome_arrived(0, id(1));
        assert!(breaker.expects_outcome(0, A, at(100)));
    }

    #[test]
    fn a_partition_without_outcomes_holds_up_no_other() {
        let (mut breaker, at) = (CircuitBreaker::default(), seconds());
        breaker.outcome_awaited(0, A, at(0));
        breaker.outcome_awaited(0, B, at(1));
        assert!(breaker.expects_outcome(0, C, at(1)), "B is awaited only now");
        assert!(!breaker.expects_outcome(0, C, at(2)));
        assert!(breaker.expects_outcome(1, C, at(2)));
    }

    #[test]
    fn without_any_outcome_none_is_expected() {
        let (mut breaker, at) = (CircuitBreaker::default(), seconds());
        breaker.outcome_awaited(0, A, at(0));
        breaker.outcome_awaited(1, B, at(0));
        assert!(breaker.expects_outcome(2, C, at(0)));
        assert!(!breaker.expects_outcome(2, C, at(1)));
        // An outcome shows that there is a worker: only those two stay open.
        breaker.outcome_arrived(2, id(1));
        assert!(breaker.expects_outcome(2, C, at(1)) && breaker.expects_outcome(3, C, at(1)));
        assert!(!breaker.expects_outcome(0, A, at(1)) && !breaker.expects_outcome(1, B, at(1)));
    }

    #[test]
    fn lost_outcomes_are_not_waited_for() {
        let (mut breaker, at) = (CircuitBreaker::default(), seconds());
        breaker.outcome_awaited(0, A, at(0));
        breaker.outcome_awaited(1, B, at(0));
        assert_eq!(breaker.probe(0, id(1), at(0)), (true, None));
        assert!(!breaker.expects_outcome(2, C, at(1)));
        breaker.outcomes_lost(0);
        assert!(breaker.expects_outcome(0, A, at(1)) && breaker.expects_outcome(2, C, at(1)));
        assert!(!breaker.expects_outcome(1, B, at(1)), "this one is still awaited");
        assert_eq!(breaker.probe(0, id(2), at(0)), (true, None));
    }

    #[test]
    fn a_partition_has_one_probe_that_is_renewed() {
        let (mut breaker, at) = (CircuitBreaker::default(), seconds());
        assert_eq!(breaker.probe(0, id(1), at(0)), (true, None));
        assert_eq!(breaker.probe(0, id(2), at(0)), (false, None));
        assert_eq!(breaker.probe(1, id(3), at(0)), (true, None));
        assert_eq!(breaker.probe(0, id(4), at(1)), (true, Some(id(1))));
        // It stays while others are answered, and is removed by its own outcome.
        breaker.outcome_arrived(0, id(5));
        assert_eq!(breaker.probe(0, id(6), at(1)), (false, None));
        breaker.outcome_arrived(0, id(4));
        assert_eq!(breaker.probe(0, id(7), at(1)), (true, None));
    }
}
