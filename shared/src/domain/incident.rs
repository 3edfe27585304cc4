//! Incidents, as the messages between workers and gateways have them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::{impact::Impact, timestamp::Timestamp};

/// Maximum number of characters of an incident's title, in an update and in an operator's command.
pub const MAX_TITLE_CHARS: usize = 255;
/// The title of an incident if an update has none.
pub const DEFAULT_TITLE: &str = "Incident";

/// The status of the timeline entries that this service writes.
pub const SYSTEM_STATUS: &str = "SYSTEM";

/// `incident.id`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct IncidentId(pub i32);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An incident as it was right after one update was applied.
///
/// Its timeline is read from the database: the entries up to `last_update_at` belong to this state.
/// `Id` is how it is named: within a batch, an incident may have no [`IncidentId`] yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentSnapshot<Id = IncidentId> {
    /// Its id.
    pub id: Id,
    /// Its title.
    pub text: String,
    /// Its impact at that time.
    pub impact: Impact,
    /// Its start.
    pub start_date: Timestamp,
    /// Its end; none while it is active. The end of a maintenance may be in the future.
    pub end_date: Option<Timestamp>,
    /// The time of its newest timeline entry at that time; none if it had none.
    pub last_update_at: Option<Timestamp>,
}

impl<Id> IncidentSnapshot<Id> {
    /// The same incident, named otherwise.
    pub fn with_id<Other>(self, other: impl FnOnce(Id) -> Other) -> IncidentSnapshot<Other> {
        let Self { id, text, impact, start_date, end_date, last_update_at } = self;
        IncidentSnapshot { id: other(id), text, impact, start_date, end_date, last_update_at }
    }
}
