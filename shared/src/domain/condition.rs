//! What a status update says of its component.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::domain::impact::Impact;

/// What a status update says of its component: how badly it is affected, or that it is well again.
///
/// Messages have the impact's number, or the word `ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// It is affected, never as `Maintenance`.
    Impact(Impact),
    /// What the same source reported of it has ended.
    Ok,
}

impl Condition {
    /// The word for a component that is well again, in requests and messages.
    pub const OK: &'static str = "ok";

    /// The reported impact; none for `ok`.
    #[must_use]
    pub const fn impact(self) -> Option<Impact> {
        match self {
            Self::Impact(impact) => Some(impact),
            Self::Ok => None,
        }
    }
}

impl From<Impact> for Condition {
    fn from(impact: Impact) -> Self {
        Self::Impact(impact)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.impact().map_or(Self::OK, Impact::word))
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Impact(impact) => impact.serialize(serializer),
            Self::Ok => serializer.serialize_str(Self::OK),
        }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrWord;

        impl de::Visitor<'_> for NumberOrWord {
            type Value = Condition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "the number of an impact, or `{}`", Condition::OK)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Condition, E> {
                let number = i16::try_from(number).map_err(E::custom)?;
                Impact::try_from(number).map(Condition::Impact).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Condition, E> {
                self.visit_i64(i64::try_from(number).map_err(E::custom)?)
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Condition, E> {
                if word == Condition::OK {
                    Ok(Condition::Ok)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(word), &self))
                }
            }
        }

        deserializer.deserialize_any(NumberOrWord)
    }
}
