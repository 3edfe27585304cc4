//! The months of the calendar, in UTC.

use shared::domain::timestamp::Timestamp;
use time::{Date, Month, Time};

/// A month of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CalendarMonth {
    pub(crate) year: i32,
    /// From 1.
    pub(crate) month: u8,
}

impl CalendarMonth {
    /// From `2026-11`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if year.len() != 4 || month.len() != 2 || !is_number(year) || !is_number(month) {
            return None;
        }
        let month = Self { year: year.parse().ok()?, month: month.parse().ok()? };
        month.begin().map(|_| month)
    }

    /// The one with this time.
    pub(crate) fn of(time: Timestamp) -> Option<Self> {
        Self::parse(time.to_the_minute().get(..7)?)
    }

    /// When it begins; none if a timestamp can't have that time.
    pub(crate) fn begin(self) -> Option<Timestamp> {
        let month = Month::try_from(self.month).ok()?;
        let date = Date::from_calendar_date(self.year, month, 1).ok()?;
        let seconds = date.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp();
        Timestamp::from_micros(seconds * 1_000_000).ok()
    }

    /// The one before.
    pub(crate) const fn previous(self) -> Self {
        match self.month {
            1 => Self { year: self.year - 1, month: 12 },
            month => Self { month: month - 1, ..self },
        }
    }

    /// The one after.
    pub(crate) const fn next(self) -> Self {
        match self.month {
            12 => Self { year: self.year + 1, month: 1 },
            month => Self { month: month + 1, ..self },
        }
    }

    /// As in addresses.
    pub(crate) fn text(self) -> String {
        format!("{:04}-{:02}", self.year, self.month)
    }

    /// For people.
    pub(crate) fn name(self) -> String {
        Month::try_from(self.month)
            .map_or_else(|_| self.text(), |month| format!("{month} {}", self.year))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other() {
        let month = CalendarMonth::parse("2026-12").unwrap();
        assert_eq!(month.next().text(), "2027-01");
        assert_eq!(month.next().previous(), month);
        assert_eq!(month.name(), "December 2026");
        assert_eq!(month.begin(), Some("2026-12-01 00:00".parse().unwrap()));
        for bad in [
            "",
            "2026",
            "2026-13",
            "2026-00",
            "26-01",
            "2026-1",
            "+026-01",
            "2026-+1",
            "2026-11-01",
        ] {
            assert_eq!(CalendarMonth::parse(bad), None, "{bad}");
        }
    }
}
