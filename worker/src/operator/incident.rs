//! Incidents and maintenances as operators see them.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};
use shared::{
    database::components,
    domain::{
        component::{Component, ComponentId},
        impact::Impact,
        incident::IncidentId,
        timestamp::Timestamp,
    },
};
use sqlx::PgConnection;

use crate::store::incident_details::{self, IncidentDetails};

/// An incident or a maintenance.
#[derive(Debug, Serialize)]
pub(crate) struct Incident {
    /// Its id.
    pub(crate) id: IncidentId,
    /// Its title.
    pub(crate) text: String,
    /// Its impact; `Maintenance` makes it a maintenance.
    pub(crate) impact: Impact,
    /// Its state now.
    pub(crate) state: IncidentState,
    /// Its start.
    #[serde(serialize_with = "as_text")]
    pub(crate) start_date: Timestamp,
    /// Its end; none while an incident is active.
    #[serde(serialize_with = "as_text")]
    pub(crate) end_date: Option<Timestamp>,
    /// Whether it is a system incident, which status updates change, or a manual one.
    pub(crate) system: bool,
    /// The affected components, in order of their ids.
    pub(crate) components: Vec<Component>,
    /// Its updates, newest first.
    pub(crate) updates: Vec<IncidentUpdate>,
}

/// The two kinds of incidents, each with commands of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncidentKind {
    Incident,
    Maintenance,
}

impl IncidentKind {
    pub(crate) const fn of(impact: Impact) -> Self {
        match impact {
            Impact::Maintenance => Self::Maintenance,
            Impact::Minor | Impact::Major | Impact::Outage => Self::Incident,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Incident => "incident",
            Self::Maintenance => "maintenance",
        }
    }

    /// The Python dashboard's status words of comments.
    pub(crate) const fn comments(self) -> &'static [&'static str] {
        match self {
            Self::Incident => &["analyzing", "fixing", "observing"],
            Self::Maintenance => &["scheduled", "in progress"],
        }
    }

    /// Its status word for changes that have none of their own.
    pub(crate) const fn changed(self) -> &'static str {
        match self {
            Self::Incident => "changed",
            Self::Maintenance => "modified",
        }
    }

    /// Its status word at the end.
    pub(crate) const fn closed(self) -> &'static str {
        match self {
            Self::Incident => "resolved",
            Self::Maintenance => "completed",
        }
    }
}

/// The state of an incident or a maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(crate) enum IncidentState {
    /// It has not started yet.
    Scheduled,
    /// It has started, and has no end or one in the future.
    Active,
    /// It has ended.
    Closed,
}

impl IncidentState {
    /// The state at that time.
    pub(crate) fn at(now: Timestamp, start: Timestamp, end: Option<Timestamp>) -> Self {
        if end.is_some_and(|end| end <= now) {
            Self::Closed
        } else if start > now {
            Self::Scheduled
        } else {
            Self::Active
        }
    }

    pub(crate) fn word(self) -> &'static str {
        self.into()
    }
}

/// An update of an incident.
#[derive(Debug, Serialize)]
pub(crate) struct IncidentUpdate {
    /// Its time.
    #[serde(serialize_with = "as_text")]
    pub(crate) timestamp: Timestamp,
    /// Its status; `SYSTEM` if this service wrote it.
    pub(crate) status: String,
    /// Its text, as HTML.
    pub(crate) text: String,
}

/// Times for programs: RFC 3339 with microseconds, UTC.
fn as_text<S: Serializer, T: Copy + Into<Option<Timestamp>>>(
    time: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    (*time).into().map(Timestamp::to_the_microsecond).serialize(serializer)
}

/// Those that are active or scheduled, newest start first.
pub(crate) async fn list(database: &mut PgConnection) -> Result<Vec<Incident>> {
    let now = incident_details::now(database).await?;
    let found = incident_details::read_open(database, now).await?;
    with_components(database, found, now).await
}

/// An incident or a maintenance, also a closed one.
///
/// # Errors
/// When there is none with that id, or the database fails.
pub(crate) async fn show(database: &mut PgConnection, id: IncidentId) -> Result<Incident> {
    let now = incident_details::now(database).await?;
    read(database, id, now).await
}

/// An incident or a maintenance with its state at that time.
///
/// # Errors
/// As for [`show`].
pub(super) async fn read(
    database: &mut PgConnection,
    id: IncidentId,
    now: Timestamp,
) -> Result<Incident> {
    let found = incident_details::read(database, id).await?;
    let incidents = with_components(database, found.into_iter().collect(), now).await?;
    incidents.into_iter().next().with_context(|| unknown(id))
}

pub(super) fn unknown(id: IncidentId) -> String {
    format!("there is no incident {id}: `worker incident list` shows those that are active")
}

async fn with_components(
    database: &mut PgConnection,
    found: Vec<IncidentDetails>,
    now: Timestamp,
) -> Result<Vec<Incident>> {
    // Only these: the scope's lock may be held.
    let ids: BTreeSet<ComponentId> =
        found.iter().flat_map(|incident| &incident.components).copied().collect();
    let ids: Vec<ComponentId> = ids.into_iter().collect();
    let catalogue: HashMap<ComponentId, Component> =
        components::read(database, &ids).await?.into_iter().map(|c| (c.id, c)).collect();
    let incident = |read: IncidentDetails| -> Result<Incident> {
        let updates = read.times.into_iter().zip(read.statuses).zip(read.texts);
        let components = read.components.iter().filter_map(|id| catalogue.get(id).cloned());
        Ok(Incident {
            id: read.id,
            text: read.text,
            impact: Impact::try_from(read.impact)
                .with_context(|| format!("incident {}", read.id))?,
            state: IncidentState::at(now, read.start_date, read.end_date),
            start_date: read.start_date,
            end_date: read.end_date,
            system: read.system,
            components: components.collect(),
            updates: updates
                .map(|((timestamp, status), text)| IncidentUpdate { timestamp, status, text })
                .collect(),
        })
    };
    found.into_iter().map(incident).collect()
}
