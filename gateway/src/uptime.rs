//! How much of a time a component was available, and how badly it was affected on each day.

use std::{iter, mem};

use shared::domain::timestamp::Timestamp;
use sqlx::FromRow;

use crate::calendar::CalendarMonth;

/// Microseconds of a day.
pub(crate) const DAY: i64 = 86_400_000_000;

/// A month, or its elapsed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MonthSoFar {
    pub(crate) of: CalendarMonth,
    /// Its begin, in microseconds since 1970.
    begin: i64,
    /// The begin of the next one, or the time of the answer if that is earlier.
    end: i64,
}

/// The current month and those before it, newest first.
pub(crate) fn last_months(now: Timestamp, count: usize) -> Vec<MonthSoFar> {
    let mut end = now.as_micros();
    let months = iter::successors(CalendarMonth::of(now), |month| Some(month.previous()));
    let elapsed = |of: CalendarMonth| {
        let begin = of.begin()?.as_micros();
        Some(MonthSoFar { of, begin, end: mem::replace(&mut end, begin) })
    };
    months.take(count).map_while(elapsed).collect()
}

impl MonthSoFar {
    /// The share of its elapsed time, in percent with 5 decimals, that is in none of the outages. They may
    /// overlap, and are in the order of their begins.
    pub(crate) fn availability(self, outages: &[(Timestamp, Timestamp)]) -> f64 {
        availability((self.begin, self.end), outages)
    }

    /// Its days, or those that have begun.
    pub(crate) fn days(self) -> Days {
        let count = usize::try_from((self.end - self.begin + DAY - 1) / DAY).unwrap_or_default();
        Days { count, begin: self.begin, now: self.end }
    }
}

/// The share of the time between two, in percent with 5 decimals, that is in none of the outages. They may overlap,
/// and are in the order of their begins.
fn availability((begin, end): (i64, i64), outages: &[(Timestamp, Timestamp)]) -> f64 {
    let elapsed = end - begin;
    if elapsed <= 0 {
        return 100.0;
    }
    let (mut unavailable, mut until) = (0, begin);
    for (began, ended) in outages {
        let began = began.as_micros().max(until);
        let ended = ended.as_micros().min(end);
        if ended > began {
            unavailable += ended - began;
            until = ended;
        }
    }
    let percent = 100.0 * (elapsed - unavailable) as f64 / elapsed as f64;
    (percent * 1e5).round() / 1e5
}

/// A time in which an incident or a maintenance affected a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Interval {
    pub(crate) impact: i16,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
}

/// When a component was not available, in order and without overlaps: in an incident of at least this impact, and in
/// no maintenance. The intervals are in the order of their begins.
pub(crate) fn outages(intervals: &[Interval], impact: i16) -> Vec<(Timestamp, Timestamp)> {
    let maintenances = union(intervals.iter().filter(|interval| interval.impact == 0));
    let mut outages = Vec::new();
    for (mut began, ended) in union(intervals.iter().filter(|i| i.impact >= impact.max(1))) {
        for (from, to) in &maintenances {
            if *from >= ended || *to <= began {
                continue;
            }
            if *from > began {
                outages.push((began, *from));
            }
            began = *to;
        }
        if began < ended {
            outages.push((began, ended));
        }
    }
    outages
}

fn union<'a>(intervals: impl Iterator<Item = &'a Interval>) -> Vec<(Timestamp, Timestamp)> {
    let mut union: Vec<(Timestamp, Timestamp)> = Vec::new();
    for Interval { began, ended, .. } in intervals.filter(|i| i.ended > i.began) {
        match union.last_mut() {
            Some((_, until)) if *until >= *began => *until = (*until).max(*ended),
            Some(_) | None => union.push((*began, *ended)),
        }
    }
    union
}

/// How a component was until now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bar {
    /// The worst impact of each day, the earliest first; none if nothing affected it.
    pub(crate) days: Vec<Option<i16>>,
    /// The share in which it was available, in percent.
    pub(crate) uptime: f64,
}

/// Days, of which the last one may be the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Days {
    count: usize,
    /// In microseconds since 1970.
    begin: i64,
    now: i64,
}

impl Days {
    pub(crate) fn until(now: Timestamp, count: usize) -> Self {
        let now = now.as_micros();
        let today = now - now.rem_euclid(DAY);
        Self { count, begin: today - DAY * (count as i64 - 1), now }
    }

    /// When the first of them begins.
    pub(crate) fn begin(self) -> Option<Timestamp> {
        Timestamp::from_micros(self.begin).ok()
    }

    /// The bar of a component with these intervals, in the order of their begins.
    pub(crate) fn bar(self, intervals: &[Interval], impact: i16) -> Bar {
        let mut days = vec![None; self.count];
        for Interval { impact, began, ended } in intervals {
            let (began, ended) =
                (began.as_micros().max(self.begin), ended.as_micros().min(self.now));
            if began >= ended {
                continue;
            }
            let day =
                |micros: i64| usize::try_from((micros - self.begin) / DAY).unwrap_or_default();
            let affected = days.iter_mut().take(day(ended - 1) + 1).skip(day(began));
            affected.for_each(|day: &mut Option<i16>| *day = (*day).max(Some(*impact)));
        }
        let uptime = availability((self.begin, self.now), &outages(intervals, impact));
        Bar { days, uptime }
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
        let names: Vec<(i32, u8)> =
            months.iter().map(|month| (month.of.year, month.of.month)).collect();
        assert_eq!(names[..4], [(2026, 3), (2026, 2), (2026, 1), (2025, 12)]);
        assert_eq!(names[11], (2025, 4));
        let days: Vec<i64> =
            months.iter().map(|month| (month.end - month.begin) / 43_200_000_000).collect();
        assert_eq!(days, [61, 56, 62, 62, 60, 62, 60, 62, 62, 60, 62, 60]);
        assert_eq!(months[1].of.begin(), Some(at("2026-02-01T00:00:00Z")));
        let first = last_months(at("2026-03-01T00:00:00Z"), 1)[0];
        assert_eq!(
            first.availability(&[(at("2026-01-01T00:00:00Z"), at("2026-03-01T00:00:00Z"))]),
            100.0
        );
    }

    #[test]
    fn maintenances_and_lesser_impacts_are_no_outages() {
        let interval = |impact, began: &str, ended: &str| Interval {
            impact,
            began: at(&format!("2026-03-{began}Z")),
            ended: at(&format!("2026-03-{ended}Z")),
        };
        let intervals = [
            interval(3, "01T00:00:00", "01T04:00:00"),
            interval(0, "01T01:00:00", "01T02:00:00"),
            interval(3, "01T03:00:00", "01T05:00:00"),
            interval(0, "01T04:30:00", "01T06:00:00"),
            interval(2, "03T00:00:00", "03T12:00:00"),
            interval(3, "04T00:00:00", "04T00:00:00"),
        ];
        let time = |text: &str| at(&format!("2026-03-01T{text}:00Z"));
        let expected = [(time("00:00"), time("01:00")), (time("02:00"), time("04:30"))];
        assert_eq!(outages(&intervals, 3), expected);
        assert_eq!(outages(&intervals, 2).len(), 3);
        let days = Days::until(at("2026-03-04T12:00:00Z"), 4);
        assert_eq!(days.begin(), Some(at("2026-03-01T00:00:00Z")));
        let bar = days.bar(&intervals, 3);
        assert_eq!(bar.days, [Some(3), None, Some(2), None]);
        assert_eq!(bar.uptime, 95.83333);
        assert_eq!(Days::until(at("2026-03-04T00:00:00Z"), 1).bar(&intervals, 3).uptime, 100.0);
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
