//! Recognizes a node that takes no updates. One that has lost the majority of its cluster accepts connections
//! and answers heartbeats, and refuses every message or confirms none.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Channels that a link gives up in a row before the node is.
const CHANNELS: usize = 3;
/// Time since the first of them: leaders are elected meanwhile.
const TIME: Duration = Duration::from_secs(5);

/// The channels of a link that were given up since its last confirmation.
#[derive(Default)]
pub(super) struct Fruitless(Mutex<Since>);

#[derive(Default)]
struct Since {
    channels: usize,
    first: Option<Instant>,
}

impl Fruitless {
    /// A message was confirmed.
    pub(super) fn confirmed(&self) {
        *self.0.lock() = Since::default();
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
        let (fruitless, begin) = (Fruitless::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for _ in 0..10 {
            assert!(!fruitless.given_up(at(0)), "an election takes some time");
        }
        assert!(!fruitless.given_up(at(4)));
        assert!(fruitless.given_up(at(5)) && fruitless.is_of_the_node(at(5)));
    }

    #[test]
    fn a_confirmation_begins_anew() {
        let (fruitless, begin) = (Fruitless::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        fruitless.given_up(at(0));
        fruitless.given_up(at(5));
        fruitless.confirmed();
        assert!(!fruitless.given_up(at(6)) && !fruitless.given_up(at(20)));
        assert!(fruitless.given_up(at(21)));
    }
}
