//! How bad an incident or a status update is.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// The severity of an incident; a higher one is worse (`api-v1`, "Terms").
///
/// Stored as `smallint` 0 to 3 and sent as that number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr,
)]
#[serde(into = "i16", try_from = "i16")]
#[strum(serialize_all = "snake_case")]
pub enum Impact {
    /// Planned work: an operator schedules it, no status update asks for it.
    Maintenance,
    /// The mildest impact that a status update can report.
    Minor,
    /// Worse than minor.
    Major,
    /// The worst.
    Outage,
}

impl Impact {
    /// The impacts that a status update can report, mildest first.
    pub const REPORTABLE: [Self; 3] = [Self::Minor, Self::Major, Self::Outage];

    /// The word that the updates of an incident and request bodies use.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl From<Impact> for i16 {
    fn from(impact: Impact) -> Self {
        match impact {
            Impact::Maintenance => 0,
            Impact::Minor => 1,
            Impact::Major => 2,
            Impact::Outage => 3,
        }
    }
}

/// A number that names no impact.
#[derive(Debug, thiserror::Error)]
#[error("impact {0} is not one of 0 (maintenance), 1 (minor), 2 (major), 3 (outage)")]
pub struct UnknownImpact(i16);

impl TryFrom<i16> for Impact {
    type Error = UnknownImpact;

    fn try_from(number: i16) -> Result<Self, UnknownImpact> {
        match number {
            0 => Ok(Self::Maintenance),
            1 => Ok(Self::Minor),
            2 => Ok(Self::Major),
            3 => Ok(Self::Outage),
            other => Err(UnknownImpact(other)),
        }
    }
}
