//! The outcome of a status update that a rule decided, and that rule. The decision, the inbox, the logs, the
//! metrics and the answers all use these types. What else may become of an update has types of its own:
//! ARCHITECTURE.md lists them.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// What a status update did, by the rules. The words are those of the receipt (`docs/api.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// A new incident was opened for the component.
    Opened,
    /// The component joined the active system incident of the impact.
    Joined,
    /// The impact of the component's incident was raised.
    Raised,
    /// The component moved to another incident, possibly one that was opened for it.
    Moved,
    /// An active incident already covers it.
    Unchanged,
    /// A running maintenance covers it.
    Suppressed,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 6] =
        [Self::Opened, Self::Joined, Self::Raised, Self::Moved, Self::Unchanged, Self::Suppressed];

    /// Whether the update changed something, which is answered 201 instead of 200.
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

/// The rule of `docs/concepts.md` ("The five rules") that decided an update. The [`Outcome`] follows from it,
/// so it is what is passed on and recorded.
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
    /// Rule 4, joining an active incident.
    JoinedIncidentOfImpact,
    /// Rule 4, opening an incident because there is none to join.
    NoIncidentOfImpact,
    /// Rule 5, to an active incident; other components stay in the old one.
    MovedToIncidentOfImpact,
    /// Rule 5, to an active incident; the old one had no other component and was closed.
    MovedAsOnlyComponent,
    /// Rule 5, as the only component of its incident, with no incident to move to.
    RaisedAsOnlyComponent,
    /// Rule 5, with other components in its incident and no incident to move to: one was opened for it.
    MovedToNewIncident,
}

impl Reason {
    /// All reasons, in the order of the rules.
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

    /// The outcome of the rule.
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
    /// If no reason has that word: another version wrote the row.
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

/// A row of the inbox with an unknown reason.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a known reason")]
pub struct UnknownReason(String);
