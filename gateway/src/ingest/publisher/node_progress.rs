//! Recognizes a node that takes no updates. One that has lost the majority of its cluster accepts connections
//! and answers heartbeats, and refuses every message or confirms none.

use std::{collections::BTreeSet, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Channels that a link gives up in a row before the node is.
const CHANNELS: usize = 3;
/// Time since the first of them: leaders are elected meanwhile.
const TIME: Duration = Duration::from_secs(5);

/// Time without a confirmation after which a link counts as silent. Elections take less, unless a node stalls.
const SILENT: Duration = Duration::from_secs(3);

/// What has happened on a link since its last confirmation.
#[derive(Default)]
pub(super) struct NodeProgress(Mutex<Since>);

#[derive(Default)]
struct Since {
    /// The last confirmation.
    confirmed: Option<Instant>,
    /// The channels that were given up, and when the first of them was.
    channels: usize,
    first: Option<Instant>,
    /// The partitions with messages that were sent since and wait for long.
    silent: BTreeSet<u16>,
}

impl NodeProgress {
    /// A message was confirmed.
    pub(super) fn confirmed(&self) {
        *self.0.lock() = Since { confirmed: Some(Instant::now()), ..Since::default() };
    }

    /// A message that was sent at this time is not confirmed.
    pub(super) fn unconfirmed(&self, partition: u16, sent: Instant, now: Instant) {
        let mut since = self.0.lock();
        if now >= sent + SILENT && since.confirmed.is_none_or(|confirmed| confirmed < sent) {
            since.silent.insert(partition);
        }
    }

    /// RabbitMQ has answered something about a partition.
    pub(super) fn answered(&self, partition: u16) {
        self.0.lock().silent.remove(&partition);
    }

    /// A partition with messages that wait for long, if nothing else was confirmed meanwhile.
    pub(super) fn silent_partition(&self) -> Option<u16> {
        self.0.lock().silent.first().copied()
    }

    /// A channel was given up, or is late to be closed; returns whether the node is to be given up.
    pub(super) fn given_up(&self, now: Instant) -> bool {
        let mut since = self.0.lock();
        since.channels += 1;
        let first = *since.first.get_or_insert(now);
        since.is_of_the_node(now, first)
    }

    /// Whether the node is to be given up.
    pub(super) fn is_of_the_node(&self, now: Instant) -> bool {
        let since = self.0.lock();
        since.first.is_some_and(|first| since.is_of_the_node(now, first))
    }
}

impl Since {
    fn is_of_the_node(&self, now: Instant, first: Instant) -> bool {
        self.channels >= CHANNELS && now.duration_since(first) >= TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_given_up_after_several_channels_and_some_time() {
        let (progress, begin) = (NodeProgress::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for _ in 0..10 {
            assert!(!progress.given_up(at(0)), "an election takes some time");
        }
        assert!(!progress.given_up(at(4)));
        assert!(progress.given_up(at(5)) && progress.is_of_the_node(at(5)));
    }

    #[test]
    fn a_link_is_silent_only_if_nothing_is_confirmed_anywhere() {
        let (progress, sent) = (NodeProgress::default(), Instant::now() + Duration::from_secs(60));
        let after = |seconds| sent + Duration::from_secs(seconds);
        progress.unconfirmed(4, sent, after(2));
        assert_eq!(progress.silent_partition(), None);
        progress.unconfirmed(4, sent, after(3));
        progress.unconfirmed(2, sent, after(3));
        assert_eq!(progress.silent_partition(), Some(2));
        progress.answered(2);
        assert_eq!(progress.silent_partition(), Some(4));
        // One of another partition.
        progress.confirmed();
        assert_eq!(progress.silent_partition(), None);
        let earlier = Instant::now() - Duration::from_secs(1);
        progress.unconfirmed(4, earlier, after(3));
        assert_eq!(progress.silent_partition(), None, "others are confirmed");
    }

    #[test]
    fn a_confirmation_begins_anew() {
        let (progress, begin) = (NodeProgress::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        progress.given_up(at(0));
        progress.given_up(at(5));
        progress.confirmed();
        assert!(!progress.given_up(at(6)) && !progress.given_up(at(20)));
        assert!(progress.given_up(at(21)));
    }
}
