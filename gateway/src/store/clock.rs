//! The database's clock, from which the times of updates are taken, and by which tokens expire.
//!
//! The id of an update determines the inbox partition of its record, and the worker creates partitions by
//! the database's clock: an update whose time is weeks off has no partition and is parked. So a gateway
//! never uses the clock of its machine, which may be wrong, or set while the gateway runs. Every reading
//! of the catalogue's version returns the database's time; between two readings, and while the database
//! is unavailable, it is extrapolated with the monotonic clock.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use shared::domain::timestamp::Timestamp;
use time::OffsetDateTime;
use tokio::time::Instant;

/// Tolerated difference of clocks in microseconds. Times from gateways of earlier versions, and from two
/// database servers, may differ by as much.
pub(crate) const TOLERATED: i64 = 5 * 60 * 1_000_000;

/// Represents a database that has not answered yet; no clock is that far off.
const UNKNOWN: i64 = i64::MIN;

/// An estimate of the database's clock.
pub(crate) struct DatabaseClock {
    /// The origin of the monotonic clock.
    started: Instant,
    /// Microseconds since 1970 that the database's clock showed at `started`.
    at_start: AtomicI64,
    /// Whether the clock of this machine was last seen beyond what is tolerated.
    reported: AtomicBool,
}

impl DatabaseClock {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            at_start: AtomicI64::new(UNKNOWN),
            reported: AtomicBool::new(false),
        }
    }

    /// Records the database's time at a moment between `sent` and `received`.
    ///
    /// Within these bounds the estimate is unchanged, so that it does not depend on the duration of
    /// queries. It starts at the lower bound, so that no update is received later than it is applied.
    pub(crate) fn observe(&self, sent: Instant, received: Instant, database: Timestamp) {
        let micros = database.as_micros();
        let earliest = micros.saturating_sub(self.elapsed(received));
        let latest = micros.saturating_sub(self.elapsed(sent));
        let known = self.at_start.load(Ordering::Relaxed);
        let estimate = if known == UNKNOWN { earliest } else { known.clamp(earliest, latest) };
        self.at_start.store(estimate, Ordering::Relaxed);
        self.report();
    }

    /// The database's time now; none before it answered for the first time.
    pub(crate) fn now(&self) -> Option<Timestamp> {
        Timestamp::from_micros(self.micros()?).ok()
    }

    /// Microseconds by which the clock of this machine is ahead of the database's; negative if it is behind.
    pub(crate) fn machine_is_ahead(&self) -> Option<i64> {
        Some(machine_micros().saturating_sub(self.micros()?))
    }

    /// The problem of this machine's clock, if there is one.
    pub(crate) fn fault(&self) -> Option<String> {
        fault(self.machine_is_ahead()?)
    }

    fn micros(&self) -> Option<i64> {
        let at_start = self.at_start.load(Ordering::Relaxed);
        (at_start != UNKNOWN).then(|| at_start.saturating_add(self.elapsed(Instant::now())))
    }

    fn elapsed(&self, at: Instant) -> i64 {
        at.saturating_duration_since(self.started).as_micros() as i64
    }

    /// Logs once that the clock of this machine is off, and once that it is right again.
    fn report(&self) {
        let fault = self.fault();
        match (self.reported.swap(fault.is_some(), Ordering::Relaxed), fault) {
            (false, Some(fault)) => tracing::warn!("{fault}"),
            (true, None) => tracing::info!("the clock of this machine agrees with PostgreSQL's"),
            (true, Some(_)) | (false, None) => {}
        }
    }
}

/// The error message for a clock that is that many microseconds ahead.
fn fault(ahead: i64) -> Option<String> {
    const UNITS: [(&str, u64); 3] = [("days", 86_400), ("hours", 3_600), ("minutes", 60)];
    if ahead.saturating_abs() <= TOLERATED {
        return None;
    }
    let seconds = (ahead.unsigned_abs() + 500_000) / 1_000_000;
    let (unit, size) = UNITS.into_iter().find(|(_, size)| seconds >= 2 * size)?;
    let (count, side) =
        ((seconds + size / 2) / size, if ahead > 0 { "ahead of" } else { "behind" });
    Some(format!(
        "the clock of this machine is {count} {unit} {side} PostgreSQL's: updates are stamped and tokens \
        expire by PostgreSQL's clock"
    ))
}

#[expect(clippy::disallowed_methods, reason = "only compared with the database's clock")]
fn machine_micros() -> i64 {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000) as i64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: i64 = 60 * 1_000_000;
    const DAY: i64 = 86_400 * 1_000_000;

    fn micros(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).expect("in range")
    }

    /// What the clock shows at an instant.
    fn shown(clock: &DatabaseClock, at: Instant) -> i64 {
        clock.at_start.load(Ordering::Relaxed) + clock.elapsed(at)
    }

    #[test]
    fn nothing_is_known_before_the_database_answers() {
        let clock = DatabaseClock::new();
        assert!(clock.now().is_none() && clock.machine_is_ahead().is_none());
        assert!(clock.fault().is_none());
    }

    #[test]
    fn the_estimate_is_within_every_reading_and_moves_no_further_than_it_must() {
        let clock = DatabaseClock::new();
        let at = |millis| clock.started + Duration::from_millis(millis);
        clock.observe(at(0), at(40), micros(DAY));
        assert_eq!(shown(&clock, at(40)), DAY);
        // The same clock, read by a slower query: nothing new.
        clock.observe(at(500), at(900), micros(DAY + 800_000));
        assert_eq!(shown(&clock, at(900)), DAY + 860_000);
        // By a quicker one, which shows that it is at least this late.
        clock.observe(at(1_000), at(1_010), micros(DAY + 1_000_000));
        assert_eq!(shown(&clock, at(1_010)), DAY + 1_000_000);
        // The database's clock was set back, and ahead.
        clock.observe(at(2_000), at(2_010), micros(DAY / 2));
        assert_eq!(shown(&clock, at(2_000)), DAY / 2);
        clock.observe(at(3_000), at(3_010), micros(2 * DAY));
        assert_eq!(shown(&clock, at(3_010)), 2 * DAY);
        // Time continues while the database is unavailable.
        assert_eq!(shown(&clock, at(63_010)), 2 * DAY + MINUTE);
    }

    #[test]
    fn a_clock_that_is_far_off_is_a_fault() {
        let text = |ahead| fault(ahead).unwrap_or_default();
        for right in [0, 2 * MINUTE, -2 * MINUTE, TOLERATED, -TOLERATED] {
            assert_eq!(text(right), "");
        }
        for (ahead, words) in [
            (21 * DAY, "is 21 days ahead of PostgreSQL's"),
            (-21 * DAY, "is 21 days behind PostgreSQL's"),
            (-21 * DAY + 9_000, "is 21 days behind PostgreSQL's"),
            (3 * 60 * MINUTE, "is 3 hours ahead of"),
            (-6 * MINUTE, "is 6 minutes behind"),
            (i64::MIN, "days behind"),
        ] {
            assert!(text(ahead).contains(words), "{}", text(ahead));
        }
    }
}
