//! Timestamps as the tables store them.

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
    OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
};

const TO_THE_MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]");
const TO_THE_MICROSECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// An instant in UTC with microseconds, `timestamp without time zone` in the database: any value of
/// PostgreSQL's type, including `infinity`. Its range (4713 BC to 294276) exceeds that of the `time` crate,
/// which formats texts: values beyond that range are shown as its first or last instant.
///
/// Messages have it as microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 2000-01-01 00:00 UTC, PostgreSQL's epoch, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
/// PostgreSQL's infinities, and the range of finite values, in microseconds since its epoch.
const INFINITY: i64 = i64::MAX;
const MINUS_INFINITY: i64 = i64::MIN;
const FINITE: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

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
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(i64::from_be_bytes(value.as_bytes()?.try_into()?))),
            PgValueFormat::Text => Ok(Self::from_utc(Decode::<Postgres>::decode(value)?)),
        }
    }
}

impl Timestamp {
    /// The instant that many microseconds after 1970-01-01 00:00 UTC.
    ///
    /// # Errors
    /// If the `time` crate has no such date (it covers ±10,000 years).
    pub fn from_micros(micros: i64) -> Result<Self, time::error::ComponentRange> {
        let instant = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)?;
        Ok(Self::from_utc(PrimitiveDateTime::new(instant.date(), instant.time())))
    }

    /// ±10,000 years are ±3.2e17 µs, which fits into an i64.
    fn from_utc(time: PrimitiveDateTime) -> Self {
        let nanos = time.assume_utc().unix_timestamp_nanos();
        Self((nanos.div_euclid(1_000)) as i64 - POSTGRES_EPOCH)
    }

    /// Clamped to the range of the `time` crate.
    fn to_utc(self) -> PrimitiveDateTime {
        let nanos = (i128::from(self.0) + i128::from(POSTGRES_EPOCH)) * 1_000;
        match OffsetDateTime::from_unix_timestamp_nanos(nanos) {
            Ok(instant) => PrimitiveDateTime::new(instant.date(), instant.time()),
            Err(_) if self.0 < 0 => PrimitiveDateTime::MIN,
            Err(_) => PrimitiveDateTime::MAX,
        }
    }

    /// Microseconds since 1970-01-01 00:00 UTC, clamped so that [`Self::from_micros`] can read them.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        Self::from_utc(self.to_utc()).0 + POSTGRES_EPOCH
    }

    /// This instant plus a number of microseconds. Infinity stays infinity.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        match self.0 {
            INFINITY | MINUS_INFINITY => self,
            finite => Self(finite.saturating_add(micros)),
        }
    }

    /// A lossless text: microseconds since 1970, or `infinity`.
    #[must_use]
    pub fn to_exact_text(self) -> String {
        match self.0 {
            INFINITY => "infinity".to_owned(),
            MINUS_INFINITY => "-infinity".to_owned(),
            finite => (i128::from(finite) + i128::from(POSTGRES_EPOCH)).to_string(),
        }
    }

    /// Parses the output of [`Self::to_exact_text`]; none if PostgreSQL has no such value.
    #[must_use]
    pub fn from_exact_text(text: &str) -> Option<Self> {
        match text {
            "infinity" => Some(Self(INFINITY)),
            "-infinity" => Some(Self(MINUS_INFINITY)),
            number => {
                let since_2000 = number.parse::<i128>().ok()?.checked_sub(POSTGRES_EPOCH.into())?;
                i64::try_from(since_2000).ok().filter(|micros| FINITE.contains(micros)).map(Self)
            }
        }
    }

    /// `YYYY-MM-DD HH:MM`, the format of times in incidents of API v1.
    #[must_use]
    pub fn to_the_minute(self) -> String {
        formatted(self.to_utc(), TO_THE_MINUTE)
    }

    /// RFC 3339 with microseconds, the format of times in receipts.
    #[must_use]
    pub fn to_the_microsecond(self) -> String {
        formatted(self.to_utc(), TO_THE_MICROSECOND)
    }
}

#[expect(clippy::expect_used, reason = "a date with a time has every component of the formats")]
fn formatted(time: PrimitiveDateTime, format: &[BorrowedFormatItem<'_>]) -> String {
    time.format(format).expect("a date with a time has every component of the formats")
}

/// A text that is not a valid time.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableTime {
    /// It has another format.
    #[error("write UTC as `YYYY-MM-DD HH:MM`, or RFC 3339 such as `2026-05-01T22:00:00+02:00`")]
    Form,
    /// The Python dashboard can't read a year outside this range from its tables.
    #[error("the year must be one from 0001 to 9999, in UTC")]
    Year,
}

impl FromStr for Timestamp {
    type Err = UnreadableTime;

    /// Parses `YYYY-MM-DD HH:MM` in UTC, or RFC 3339 with an offset; microseconds are kept.
    fn from_str(text: &str) -> Result<Self, UnreadableTime> {
        let utc = match PrimitiveDateTime::parse(text, TO_THE_MINUTE) {
            Ok(minute) => minute,
            Err(_) => {
                let instant =
                    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| UnreadableTime::Form)?;
                let utc = instant.checked_to_utc().ok_or(UnreadableTime::Year)?;
                PrimitiveDateTime::new(utc.date(), utc.time())
            }
        };
        if (1..=9999).contains(&utc.year()) {
            Ok(Self::from_utc(utc))
        } else {
            Err(UnreadableTime::Year)
        }
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
        for (text, says) in [
            ("", "write UTC as"),
            ("now", "write UTC as"),
            ("2026-05-01", "write UTC as"),
            ("2026-13-01 22:00", "write UTC as"),
            ("2026-05-01T22:00:00", "write UTC as"),
            ("22:00", "write UTC as"),
            ("infinity", "write UTC as"),
            ("12026-05-01 22:00", "write UTC as"),
            ("0000-05-01 00:00", "the year must be one from 0001 to 9999"),
            ("-001-05-01 00:00", "write UTC as"),
            ("0001-01-01T00:00:00+02:00", "the year must be one from 0001 to 9999"),
            ("9999-12-31T23:59:59-02:00", "the year must be one from 0001 to 9999"),
        ] {
            let error = text.parse::<Timestamp>().expect_err(text).to_string();
            assert!(error.starts_with(says), "{text}: {error}");
        }
        for text in ["0001-01-01 00:00", "9999-12-31 23:59"] {
            let instant: Timestamp = text.parse().expect(text);
            assert_eq!(instant.to_the_minute(), text);
        }
    }

    #[test]
    fn every_instant_of_postgresql_has_an_exact_text() {
        for (micros, text, shown) in [
            (i64::MIN, "-infinity", "-9999-01-01 00:00"),
            (FINITE.start, "-210866803200000000", "-4713-11-24 00:00"),
            (-POSTGRES_EPOCH, "0", "1970-01-01 00:00"),
            (FINITE.end - 1, "9224318015999999999", "9999-12-31 23:59"),
            (i64::MAX, "infinity", "9999-12-31 23:59"),
        ] {
            let instant = Timestamp(micros);
            assert_eq!(instant.to_exact_text(), text);
            assert_eq!(Timestamp::from_exact_text(text), Some(instant), "{text}");
            assert_eq!(instant.to_the_minute(), shown, "{text}");
        }
        for text in ["", "Infinity", "1.5", "9224318016000000000", "-210866803200000001", "1e9"] {
            assert_eq!(Timestamp::from_exact_text(text), None, "{text}");
        }
        // Messages have them within our calendar.
        for micros in [INFINITY, MINUS_INFINITY, FINITE.start, FINITE.end - 1] {
            let micros = Timestamp(micros).as_micros();
            assert_eq!(Timestamp::from_micros(micros).map(Timestamp::as_micros).ok(), Some(micros));
        }
        assert_eq!(Timestamp(INFINITY).plus_micros(1), Timestamp(INFINITY));
        assert_eq!(Timestamp(MINUS_INFINITY).plus_micros(-1), Timestamp(MINUS_INFINITY));
    }
}
