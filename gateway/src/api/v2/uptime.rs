//! How much of each month a component was available.

use shared::timestamp::Timestamp;
use time::{Date, Duration, OffsetDateTime, Time};

/// A month of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CalendarMonth {
    pub(super) year: i32,
    /// From 1.
    pub(super) month: u8,
    /// Its begin, in microseconds since 1970.
    begin: i64,
    /// The begin of the next one, or the time of the answer if that is earlier.
    end: i64,
}

/// The current month and those before it, newest first.
pub(super) fn last_months(now: Timestamp, count: usize) -> Vec<CalendarMonth> {
    let now = now.as_micros();
    let today = OffsetDateTime::from_unix_timestamp(now.div_euclid(1_000_000));
    let Ok(mut last) = today.map(OffsetDateTime::date) else { return Vec::new() };
    let mut end = now;
    let mut months = Vec::with_capacity(count);
    for _ in 0..count {
        let first = last - Duration::days(i64::from(last.day()) - 1);
        let begin = micros(first);
        months.push(CalendarMonth { year: first.year(), month: first.month().into(), begin, end });
        (last, end) = (first - Duration::DAY, begin);
    }
    months
}

fn micros(date: Date) -> i64 {
    date.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp() * 1_000_000
}

impl CalendarMonth {
    /// When it begins.
    pub(super) fn begin(self) -> Option<Timestamp> {
        Timestamp::from_micros(self.begin).ok()
    }

    /// The share of its elapsed time, in percent with 5 decimals, that is in none of the outages. They may
    /// overlap, and are in the order of their begins.
    pub(super) fn availability(self, outages: &[(Timestamp, Timestamp)]) -> f64 {
        let elapsed = self.end - self.begin;
        if elapsed <= 0 {
            return 100.0;
        }
        let (mut unavailable, mut until) = (0, self.begin);
        for (began, ended) in outages {
            let began = began.as_micros().max(until);
            let ended = ended.as_micros().min(self.end);
            if ended > began {
                unavailable += ended - began;
                until = ended;
            }
        }
        let percent = 100.0 * (elapsed - unavailable) as f64 / elapsed as f64;
        (percent * 1e5).round() / 1e5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn months_go_back_from_the_elapsed_part_of_this_one() {
        let months = last_months(at("2026-03-31T12:00:00Z"), 12);
        let names: Vec<(i32, u8)> = months.iter().map(|month| (month.year, month.month)).collect();
        assert_eq!(names[..4], [(2026, 3), (2026, 2), (2026, 1), (2025, 12)]);
        assert_eq!(names[11], (2025, 4));
        let days: Vec<i64> =
            months.iter().map(|month| (month.end - month.begin) / 43_200_000_000).collect();
        assert_eq!(days, [61, 56, 62, 62, 60, 62, 60, 62, 62, 60, 62, 60]);
        assert_eq!(months[1].begin(), Some(at("2026-02-01T00:00:00Z")));
        let first = last_months(at("2026-03-01T00:00:00Z"), 1)[0];
        assert_eq!(
            first.availability(&[(at("2026-01-01T00:00:00Z"), at("2026-03-01T00:00:00Z"))]),
            100.0
        );
    }

    #[test]
    fn outages_count_once_and_only_within_the_month() {
        let months = last_months(at("2026-03-11T00:00:00Z"), 2);
        let outage = |began: &str, ended: &str| (at(began), at(ended));
        let outages = [
            outage("2026-02-27T00:00:00Z", "2026-03-02T00:00:00Z"),
            outage("2026-03-01T12:00:00Z", "2026-03-03T00:00:00Z"),
            outage("2026-03-01T13:00:00Z", "2026-03-01T14:00:00Z"),
            outage("2026-03-10T23:59:59Z", "2026-03-11T00:00:00Z"),
            outage("2026-03-11T00:00:00Z", "2026-04-11T00:00:00Z"),
        ];
        assert_eq!(months[0].availability(&outages), 79.99988);
        assert_eq!(months[1].availability(&outages), 92.85714);
        assert_eq!(months[0].availability(&[]), 100.0);
        let always = [outage("2020-01-01T00:00:00Z", "2026-03-11T00:00:00Z")];
        assert_eq!(months[0].availability(&always), 0.0);
    }
}
