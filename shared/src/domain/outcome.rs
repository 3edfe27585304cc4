//! The outcome of a status update that a rule decided, and that rule. The decision, the inbox, the logs, the
//! metrics and the answers all use these types. What else may become of an update has types of its own:
//! docs/architecture.md lists them.

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
    /// An active incident already covers it, or it says nothing new.
    Unchanged,
    /// A running maintenance covers it.
    Suppressed,
    /// The component recovered and left its incident to the others.
    Left,
    /// The component recovered, and its incident, which had no other, was closed.
    Closed,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 8] = [
        Self::Opened,
        Self::Joined,
        Self::Raised,
        Self::Moved,
        Self::Unchanged,
        Self::Suppressed,
        Self::Left,
        Self::Closed,
    ];

    /// Whether the update changed something, which is answered 201 instead of 200.
    #[must_use]
    pub const fn is_change(self) -> bool {
        match self {
            Self::Opened
            | Self::Joined
            | Self::Raised
            | Self::Moved
            | Self::Left
            | Self::Closed => true,
            Self::Unchanged | Self::Suppressed => false,
        }
    }

    /// The word, as in the receipt and the inbox.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }
}

/// The rule of `docs/concepts.md` ("The five rules", "Recovery") that decided an update. The [`Outcome`] follows from it,
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
    /// `ok`: it was the last report of the component, which leaves an incident that has others.
    RecoveredAmongOthers,
    /// `ok`: it was the last report of the component, and its incident, which has no other, is closed.
    RecoveredAsOnlyComponent,
    /// `ok`: another report of the component stands.
    AnotherReportStands,
    /// `ok`: the component is in no active system incident.
    InNoSystemIncident,
    /// `ok`: its report had ended before, so that the component's incident is about something else.
    ReportHadEnded,
    /// What it reports began before an end that its sender gave: it is late, or doubled.
    BeganBeforeKnownEnd,
    /// `ok`: what ended began anew since: it is late.
    EndedBeforeKnownStart,
}

impl Reason {
    /// All reasons, in the order of the rules.
    pub const ALL: [Self; 16] = [
        Self::InRunningMaintenance,
        Self::CoveredByManualIncident,
        Self::CoveredBySystemIncident,
        Self::JoinedIncidentOfImpact,
        Self::NoIncidentOfImpact,
        Self::MovedToIncidentOfImpact,
        Self::MovedAsOnlyComponent,
        Self::RaisedAsOnlyComponent,
        Self::MovedToNewIncident,
        Self::RecoveredAmongOthers,
        Self::RecoveredAsOnlyComponent,
        Self::AnotherReportStands,
        Self::InNoSystemIncident,
        Self::ReportHadEnded,
        Self::BeganBeforeKnownEnd,
        Self::EndedBeforeKnownStart,
    ];

    /// The outcome of the rule.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::InRunningMaintenance => Outcome::Suppressed,
            Self::CoveredByManualIncident
            | Self::CoveredBySystemIncident
            | Self::AnotherReportStands
            | Self::InNoSystemIncident
            | Self::ReportHadEnded
            | Self::BeganBeforeKnownEnd
            | Self::EndedBeforeKnownStart => Outcome::Unchanged,
            Self::JoinedIncidentOfImpact => Outcome::Joined,
            Self::NoIncidentOfImpact => Outcome::Opened,
            Self::MovedToIncidentOfImpact
            | Self::MovedAsOnlyComponent
            | Self::MovedToNewIncident => Outcome::Moved,
            Self::RaisedAsOnlyComponent => Outcome::Raised,
            Self::RecoveredAmongOthers => Outcome::Left,
            Self::RecoveredAsOnlyComponent => Outcome::Closed,
        }
    }

    /// The word, as in the receipt and the inbox.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }

    /// The reason with this word; none if only another version has it.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why an update was rejected, which no rule decides: it changed nothing and never will.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Rejection {
    /// Its idempotency key was used for another body.
    #[default]
    #[serde(rename = "idempotency_key_of_another_body")]
    #[strum(serialize = "idempotency_key_of_another_body")]
    KeyOfAnotherBody,
    /// Its component has the maximum number of reports.
    TooManyReports,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::KeyOfAnotherBody, Self::TooManyReports];

    /// The word, as in the receipt and the inbox.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }

    /// The rejection with this word; none if only another version has it.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rejection| rejection.word() == word)
    }
}

/// What the inbox records of an update, in the columns `outcome` and `reason` of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxOutcome {
    /// A rule decided it.
    Decided(Reason),
    /// Its idempotency key was used before, by an update with the same body: that one has the outcome.
    Repeated,
    /// It changed nothing and never will.
    Rejected(Rejection),
}

impl InboxOutcome {
    /// The outcome of rows that repeat another one. SQL in both programs has this word, too.
    pub const REPEATED: &str = "repeated";
    /// The outcome of rejected rows.
    pub const REJECTED: &str = "rejected";
    const KEY_REPEATED: &str = "idempotency_key_repeated";

    /// The word in the column `outcome`.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Decided(reason) => reason.outcome().word(),
            Self::Repeated => Self::REPEATED,
            Self::Rejected(_) => Self::REJECTED,
        }
    }

    /// The word in the column `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Decided(reason) => reason.word(),
            Self::Repeated => Self::KEY_REPEATED,
            Self::Rejected(rejection) => rejection.word(),
        }
    }

    /// What a row says; none if another version wrote it, which knows other words.
    #[must_use]
    pub fn of_row(outcome: &str, reason: &str) -> Option<Self> {
        match outcome {
            Self::REPEATED => Some(Self::Repeated),
            Self::REJECTED => Rejection::from_word(reason).map(Self::Rejected),
            _ => Reason::from_word(reason).map(Self::Decided),
        }
    }
}
