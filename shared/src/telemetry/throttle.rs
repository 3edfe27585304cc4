//! Throttled logging: lines that would repeat often.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The minimum time between two lines of one kind.
const EVERY: Duration = Duration::from_secs(5);
/// Maximum number of kinds; lines of further kinds are suppressed until one of these may be logged again.
const MAX_KINDS: usize = 32;

/// Lets one line of each kind through per interval. Created by [`throttled!`](crate::throttled!).
#[derive(Debug)]
pub struct Throttle(Mutex<LoggedKinds>);

#[derive(Debug)]
struct LoggedKinds {
    /// When each kind was last logged.
    last: BTreeMap<String, Instant>,
    /// Number of suppressed lines since the last logged one.
    unsaid: u64,
}

impl Throttle {
    /// Nothing was said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(LoggedKinds { last: BTreeMap::new(), unsaid: 0 }))
    }

    /// Whether a line of this kind may be logged now; if so, the number of lines suppressed before it.
    pub fn say(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        said.last.retain(|_, at| now.saturating_duration_since(*at) < EVERY);
        if said.last.len() >= MAX_KINDS || said.last.contains_key(kind) {
            said.unsaid += 1;
            return None;
        }
        said.last.insert(kind.to_owned(), now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

/// Logs a line at a level, at most once every five seconds for each kind, with the number of suppressed
/// lines (`unsaid`), which are logged at level debug.
#[macro_export]
macro_rules! throttled {
    ($level:ident, $kind:expr, $($line:tt)+) => {{
        static SAID: $crate::telemetry::throttle::Throttle =
            $crate::telemetry::throttle::Throttle::new();
        match SAID.say($kind, ::std::time::Instant::now()) {
            Some(0) => ::tracing::$level!($($line)+),
            Some(unsaid) => ::tracing::$level!(unsaid, $($line)+),
            None => ::tracing::debug!($($line)+),
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_every_so_often() {
        let (throttle, begin) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.say("a", begin), Some(0));
        assert_eq!(throttle.say("a", begin), None);
        assert_eq!(throttle.say("b", begin + EVERY / 2), Some(1));
        assert_eq!(throttle.say("a", begin + EVERY / 2), None);
        assert_eq!(throttle.say("b", begin + EVERY), None);
        assert_eq!(throttle.say("a", begin + EVERY), Some(2));
        assert_eq!(throttle.say("a", begin + EVERY * 3), Some(0));
    }

    #[test]
    fn a_storm_of_kinds_is_bounded_too() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let storm =
            |now| (0..1_000).filter(|n| throttle.say(&n.to_string(), now).is_some()).count();
        assert_eq!(storm(now), MAX_KINDS);
        assert_eq!(storm(now + EVERY), MAX_KINDS);
    }
}
