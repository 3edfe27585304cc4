//! How many events match a filter, at one version of the lists: counting reads all of them, a page only its own.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::version::Version;

/// Maximum number of filters whose count is kept.
const KEPT: usize = 256;

/// The counts that were read last, by filter.
#[derive(Default)]
pub(crate) struct EventCounts(Mutex<HashMap<String, (Version, u64)>>);

impl EventCounts {
    /// The version at which the events of a filter were counted last, and their number.
    pub(crate) fn last(&self, filter: &str) -> Option<(Version, u64)> {
        self.0.lock().get(filter).copied()
    }

    /// Keeps a count. Those of an earlier version are of no more use.
    pub(crate) fn keep(&self, filter: String, version: Version, count: u64) {
        let mut counts = self.0.lock();
        if counts.len() >= KEPT {
            counts.retain(|_, (of, _)| *of == version);
        }
        if counts.len() < KEPT {
            counts.insert(filter, (version, count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_of_a_version_and_few() {
        let counts = EventCounts::default();
        counts.keep("all".to_owned(), Version::of(1), 7);
        assert_eq!(counts.last("all"), Some((Version::of(1), 7)));
        assert_eq!(counts.last("other"), None);
        for number in 0..2 * KEPT {
            counts.keep(number.to_string(), Version::of(2), 1);
        }
        assert_eq!(counts.0.lock().len(), KEPT);
        // The last place was taken by one of an earlier version.
        assert_eq!(counts.last("all"), None);
        counts.keep("all".to_owned(), Version::of(3), 8);
        assert_eq!(counts.last("all"), Some((Version::of(3), 8)));
    }
}
