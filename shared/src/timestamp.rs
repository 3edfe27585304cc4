//! Instants as the tables keep them.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef},
};
use time::macros::format_description;
use time::{
    Duration, OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
};

const TO_THE_MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]");
const TO_THE_MICROSECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// An instant in UTC with microseconds, `timestamp without time zone` in the database.
///
/// Messages carry it as microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(PrimitiveDateTime);

/// 2000-01-01 00:00 UTC, from which PostgreSQL counts, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PrimitiveDateTime::type_info()
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PrimitiveDateTime::array_type_info()
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode_by_ref(&self.0, buffer)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    /// PostgreSQL's calendar is longer than ours, and has `infinity`, which others may write: what
    /// lies beyond ours is its first or last instant.
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros: i64 = match value.format() {
            PgValueFormat::Binary => i64::from_be_bytes(value.as_bytes()?.try_into()?),
            PgValueFormat::Text => return Ok(Self(Decode::<Postgres>::decode(value)?)),
        };
        let end = if micros < 0 { PrimitiveDateTime::MIN } else { PrimitiveDateTime::MAX };
        let since_1970 = micros.checked_add(POSTGRES_EPOCH);
        Ok(since_1970.and_then(|micros| Self::from_micros(micros).ok()).unwrap_or(Self(end)))
    }
}

impl Timestamp {
    /// The instant that many microseconds after 1970-01-01 00:00 UTC.
    ///
    /// # Errors
    /// When the calendar does not reach that far (some 10,000 years).
    pub fn from_micros(micros: i64) -> Result<Self, time::error::ComponentRange> {
        let instant = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)?;
        Ok(Self(PrimitiveDateTime::new(instant.date(), instant.time())))
    }

    /// Microseconds since 1970-01-01 00:00 UTC.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        let nanos = self.0.assume_utc().unix_timestamp_nanos();
        // The calendar's ±10,000 years are ±3.2e17 µs, which an i64 holds.
        (nanos / 1_000) as i64
    }

    /// This instant and so many microseconds.
    #[must_use]
    pub fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(Duration::microseconds(micros)))
    }

    /// `YYYY-MM-DD HH:MM`, as the incidents of v1 show their times.
    #[must_use]
    pub fn to_the_minute(self) -> String {
        formatted(self.0, TO_THE_MINUTE)
    }

    /// RFC 3339 with microseconds, as receipts show their times.
    #[must_use]
    pub fn to_the_microsecond(self) -> String {
        formatted(self.0, TO_THE_MICROSECOND)
    }
}

#[expect(clippy::expect_used, reason = "a date with a time has every part that the formats name")]
fn formatted(time: PrimitiveDateTime, format: &[BorrowedFormatItem<'_>]) -> String {
    time.format(format).expect("a date and time has all of the format's parts")
}

/// A text that names no instant.
#[derive(Debug, thiserror::Error)]
#[error("write UTC as `YYYY-MM-DD HH:MM`, or RFC 3339 such as `2026-05-01T22:00:00+02:00`")]
pub struct UnreadableTime;

impl FromStr for Timestamp {
    type Err = UnreadableTime;

    /// Reads `YYYY-MM-DD HH:MM` in UTC, or RFC 3339 with its own offset; microseconds are kept.
    fn from_str(text: &str) -> Result<Self, UnreadableTime> {
        if let Ok(minute) = PrimitiveDateTime::parse(text, TO_THE_MINUTE) {
            return Ok(Self(minute));
        }
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| UnreadableTime)?;
        let micros = instant.unix_timestamp_nanos() / 1_000;
        let micros = i64::try_from(micros).map_err(|_| UnreadableTime)?;
        Self::from_micros(micros).map_err(|_| UnreadableTime)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.as_micros())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_micros(i64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micros_and_texts_agree() {
        let instant = Timestamp::from_micros(1_700_000_000_123_456).expect("in range");
        assert_eq!(instant.as_micros(), 1_700_000_000_123_456);
        assert_eq!(instant.to_the_minute(), "2023-11-14 22:13");
        assert_eq!(instant.to_the_microsecond(), "2023-11-14T22:13:20.123456Z");
        assert_eq!(instant.plus_micros(4).to_the_microsecond(), "2023-11-14T22:13:20.123460Z");
        assert!(Timestamp::from_micros(i64::MAX).is_err());
    }

    #[test]
    fn what_people_write_is_read_as_utc() {
        for (text, means) in [
            ("2026-05-01 22:00", "2026-05-01T22:00:00.000000Z"),
            ("2026-05-01T22:00:00Z", "2026-05-01T22:00:00.000000Z"),
            ("2026-05-01T22:00:00.1234567+02:00", "2026-05-01T20:00:00.123456Z"),
        ] {
            let instant: Timestamp = text.parse().expect(text);
            assert_eq!(instant.to_the_microsecond(), means, "{text}");
        }
        for text in ["", "now", "2026-05-01", "2026-13-01 22:00", "2026-05-01T22:00:00", "22:00"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
