//! What a status update led to, and by which rule. One type serves the decision, the inbox, the
//! logs and the answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// What a status update did. The words are those of the receipt (`api-v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// A new incident was opened for the component.
    Opened,
    /// The component joined the active incident that has the impact.
    Joined,
    /// The impact of the component's incident was raised.
    Raised,
    /// The component moved to another incident, which may have been opened for it.
    Moved,
    /// An active incident covers it already.
    Unchanged,
    /// A running maintenance covers it.
    Suppressed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] =
        [Self::Opened, Self::Joined, Self::Raised, Self::Moved, Self::Unchanged, Self::Suppressed];

    /// Whether the update changed something: the difference between 201 and 200.
    #[must_use]
    pub const fn is_change(self) -> bool {
        match self {
            Self::Opened | Self::Joined | Self::Raised | Self::Moved => true,
            Self::Unchanged | Self::Suppressed => false,
        }
    }

    /// The word, as in the receipt and the inbox.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }
}

/// The rule of `api-v1` ("What an update does") that decided an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// Rule 1.
    InRunningMaintenance,
    /// Rule 2.
    CoveredByManualIncident,
    /// Rule 3.
    CoveredBySystemIncident,
    /// Rule 4, with an active incident to join.
    JoinedIncidentOfImpact,
    /// Rule 4, with none to join.
    NoIncidentOfImpact,
    /// Rule 5, to an incident that stands; others stay in the old one.
    MovedToIncidentOfImpact,
    /// Rule 5, to an incident that stands; the old one, left empty, was closed.
    MovedAsOnlyComponent,
    /// Rule 5, alone in its incident and none to move to.
    RaisedAsOnlyComponent,
    /// Rule 5, among others and none to move to: an incident was opened for it.
    MovedToNewIncident,
}

impl Reason {
    /// Every reason, in the order of the rules.
    pub const ALL: [Self; 9] = [
        Self::InRunningMaintenance,
        Self::CoveredByManualIncident,
        Self::CoveredBySystemIncident,
        Self::JoinedIncidentOfImpact,
        Self::NoIncidentOfImpact,
        Self::MovedToIncidentOfImpact,
        Self::MovedAsOnlyComponent,
        Self::RaisedAsOnlyComponent,
        Self::MovedToNewIncident,
    ];

    /// What the rule leads to.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::InRunningMaintenance => Outcome::Suppressed,
            Self::CoveredByManualIncident | Self::CoveredBySystemIncident => Outcome::Unchanged,
            Self::JoinedIncidentOfImpact => Outcome::Joined,
            Self::NoIncidentOfImpact => Outcome::Opened,
            Self::MovedToIncidentOfImpact
            | Self::MovedAsOnlyComponent
            | Self::MovedToNewIncident => Outcome::Moved,
            Self::RaisedAsOnlyComponent => Outcome::Raised,
        }
    }

    /// The word, as in the receipt and the inbox.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }

    /// The reason that a row of the inbox names.
    ///
    /// # Errors
    /// When no reason has that word: the row was not written by this program.
    pub fn from_word(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.word() == word)
            .ok_or_else(|| UnknownReason(word.to_owned()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A row of the inbox with a reason that no rule has.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the reason of any rule")]
pub struct UnknownReason(String);
