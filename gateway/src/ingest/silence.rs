//! Whether outcomes come, so that nobody waits for one that does not.
//!
//! Without a worker every client would wait until its deadline and then get the 202 that it could have
//! had at once. So where no outcome has come for [`PATIENCE`] although one was awaited all along, none
//! is awaited any more until one comes again:
//!
//! - for a component: its updates may be held up alone, by a row that somebody else has locked;
//! - for a partition, once two of its components are in that state: it may have no worker;
//! - for all of them, once two partitions are, and no outcome of any other came meanwhile.
//!
//! Meanwhile one update of each partition is a *probe*: its outcome is asked for, and when it comes,
//! the next updates wait again. A probe is replaced by a newer one before long, so that old outcomes
//! of a backlog, which say nothing about the next update, do not count.

use std::{collections::HashMap, time::Duration};

use shared::{component::ComponentId, update_id::UpdateId};
use tokio::time::Instant;

/// Time without an outcome, while one is awaited, after which none is expected.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time after which a probe is replaced.
const PROBE_LIFE: Duration = Duration::from_secs(1);

/// What is known of the outcomes that came, and did not.
#[derive(Default)]
pub(crate) struct Silence {
    partitions: HashMap<u16, Partition>,
    /// Partitions that no outcome came from since the last one of any.
    all: Unanswered<u16>,
}

#[derive(Default)]
struct Partition {
    /// Components that no outcome came for since the last one of the partition.
    components: Unanswered<ComponentId>,
    /// An update whose outcome would end the silence, with the time when it was sent.
    probe: Option<(UpdateId, Instant)>,
}

/// Up to two of something for which an outcome is awaited, each since when. More need not be known.
struct Unanswered<K>([Option<(K, Instant)>; 2]);

impl<K> Default for Unanswered<K> {
    fn default() -> Self {
        Self([None, None])
    }
}

impl<K: Copy + Eq> Unanswered<K> {
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

    fn silent(&self, now: Instant) -> impl Iterator<Item = K> {
        let awaited = self.0.iter().flatten();
        awaited.filter(move |(_, since)| *since + PATIENCE <= now).map(|(one, _)| *one)
    }

    fn are_all_silent(&self, now: Instant) -> bool {
        self.silent(now).count() == self.0.len()
    }
}

impl Silence {
    /// Whether the outcome of an update is expected to come in time.
    pub(crate) fn expects(&self, partition: u16, component: ComponentId, now: Instant) -> bool {
        let silent = self.partitions.get(&partition).is_some_and(|partition| {
            let components = &partition.components;
            components.are_all_silent(now) || components.silent(now).any(|one| one == component)
        });
        !silent && !self.all.are_all_silent(now)
    }

    /// The outcome of an update that was accepted is awaited from now on.
    pub(crate) fn awaits(&mut self, partition: u16, component: ComponentId, now: Instant) {
        self.all.awaits(partition, now);
        self.partitions.entry(partition).or_default().components.awaits(component, now);
    }

    /// The outcome of an update came, which was awaited or is the probe's.
    pub(crate) fn ends(&mut self, partition: u16, id: UpdateId) {
        self.all = Unanswered::default();
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.components = Unanswered::default();
            partition.probe = partition.probe.filter(|(probe, _)| *probe != id);
        }
    }

    /// Makes an update the probe of its partition, unless there is one that was sent just now.
    ///
    /// Returns whether it is, and the update that is the probe no longer.
    pub(crate) fn probe(
        &mut self,
        partition: u16,
        id: UpdateId,
        now: Instant,
    ) -> (bool, Option<UpdateId>) {
        let probe = &mut self.partitions.entry(partition).or_default().probe;
        if probe.is_some_and(|(_, sent)| now < sent + PROBE_LIFE) {
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

    /// Instants a second apart, longer than the patience.
    fn seconds() -> impl Fn(u64) -> Instant {
        let begin = Instant::now();
        move |seconds| begin + Duration::from_secs(seconds)
    }

    #[test]
    fn outcomes_are_expected_at_first_and_while_they_come() {
        let (mut silence, at) = (Silence::default(), seconds());
        assert!(silence.expects(0, A, at(0)) && silence.expects(0, A, at(1_000)));
        for second in 0..100 {
            silence.awaits(0, A, at(second));
            silence.ends(0, id(1));
            assert!(silence.expects(0, A, at(second + 50)));
        }
    }

    #[test]
    fn a_component_that_is_held_up_holds_up_no_other() {
        let (mut silence, at) = (Silence::default(), seconds());
        silence.awaits(0, A, at(0));
        assert!(silence.expects(0, A, at(0)), "not at once");
        for second in 1..100 {
            assert!(!silence.expects(0, A, at(second)));
            assert!(silence.expects(0, B, at(second)), "the same partition");
            assert!(silence.expects(1, C, at(second)), "another one");
        }
        // An outcome of another partition says nothing about this one.
        silence.ends(1, id(1));
        assert!(!silence.expects(0, A, at(100)) && silence.expects(1, C, at(100)));
        silence.ends(0, id(1));
        assert!(silence.expects(0, A, at(100)));
    }

    #[test]
    fn a_partition_without_outcomes_holds_up_no_other() {
        let (mut silence, at) = (Silence::default(), seconds());
        silence.awaits(0, A, at(0));
        silence.awaits(0, B, at(1));
        assert!(silence.expects(0, C, at(1)), "B is awaited only now");
        assert!(!silence.expects(0, C, at(2)));
        assert!(silence.expects(1, C, at(2)));
    }

    #[test]
    fn without_any_outcome_none_is_expected() {
        let (mut silence, at) = (Silence::default(), seconds());
        silence.awaits(0, A, at(0));
        silence.awaits(1, B, at(0));
        assert!(silence.expects(2, C, at(0)));
        assert!(!silence.expects(2, C, at(1)));
        // One that comes shows that there is a worker: only those two are silent still.
        silence.ends(2, id(1));
        assert!(silence.expects(2, C, at(1)) && silence.expects(3, C, at(1)));
        assert!(!silence.expects(0, A, at(1)) && !silence.expects(1, B, at(1)));
    }

    #[test]
    fn a_partition_has_one_probe_that_is_renewed() {
        let (mut silence, at) = (Silence::default(), seconds());
        assert_eq!(silence.probe(0, id(1), at(0)), (true, None));
        assert_eq!(silence.probe(0, id(2), at(0)), (false, None));
        assert_eq!(silence.probe(1, id(3), at(0)), (true, None));
        assert_eq!(silence.probe(0, id(4), at(1)), (true, Some(id(1))));
        // It stays while others are answered, and goes with its own outcome.
        silence.ends(0, id(5));
        assert_eq!(silence.probe(0, id(6), at(1)), (false, None));
        silence.ends(0, id(4));
        assert_eq!(silence.probe(0, id(7), at(1)), (true, None));
    }
}
