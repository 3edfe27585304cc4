//! Incidents and maintenances as operators see them.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};
use shared::{
    component::{Component, ComponentId},
    database::components,
    impact::Impact,
    incident::IncidentId,
    timestamp::Timestamp,
};
use sqlx::{FromRow, PgConnection};

/// An incident or a maintenance.
#[derive(Debug, Serialize)]
pub(super) struct Incident {
    /// The number that the commands know it by.
    pub(super) id: IncidentId,
    /// Its title.
    pub(super) text: String,
    /// Its impact; `Maintenance` makes it a maintenance.
    pub(super) impact: Impact,
    /// Where it stands now.
    pub(super) state: State,
    /// Its start.
    #[serde(serialize_with = "as_text")]
    pub(super) start_date: Timestamp,
    /// Its end; none while an incident is active.
    #[serde(serialize_with = "as_text")]
    pub(super) end_date: Option<Timestamp>,
    /// Whether it is the system's: updates change it. A person's they leave alone.
    pub(super) system: bool,
    /// What it affects, in order of their ids.
    pub(super) components: Vec<Component>,
    /// Its updates, newest first.
    pub(super) updates: Vec<Update>,
}

/// The two kinds of incidents, each with commands of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Incident,
    Maintenance,
}

impl Kind {
    pub(super) const fn of(impact: Impact) -> Self {
        match impact {
            Impact::Maintenance => Self::Maintenance,
            Impact::Minor | Impact::Major | Impact::Outage => Self::Incident,
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Incident => "incident",
            Self::Maintenance => "maintenance",
        }
    }

    /// The status words of the Python dashboard that only say something.
    pub(super) const fn comments(self) -> &'static [&'static str] {
        match self {
            Self::Incident => &["analyzing", "fixing", "observing"],
            Self::Maintenance => &["scheduled", "in progress"],
        }
    }

    /// Its status word for what has none of its own.
    pub(super) const fn changed(self) -> &'static str {
        match self {
            Self::Incident => "changed",
            Self::Maintenance => "modified",
        }
    }

    /// Its status word at the end.
    pub(super) const fn closed(self) -> &'static str {
        match self {
            Self::Incident => "resolved",
            Self::Maintenance => "completed",
        }
    }
}

/// Where an incident or a maintenance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Its start is to come.
    Scheduled,
    /// It has begun, and its end is to come or open.
    Active,
    /// It has ended.
    Closed,
}

impl State {
    /// The state at that time.
    pub(super) fn at(now: Timestamp, start: Timestamp, end: Option<Timestamp>) -> Self {
        if end.is_some_and(|end| end <= now) {
            Self::Closed
        } else if start > now {
            Self::Scheduled
        } else {
            Self::Active
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scheduled => "scheduled",
            Self::Active => "active",
            Self::Closed => "closed",
        })
    }
}

/// An update of an incident.
#[derive(Debug, Serialize)]
pub(super) struct Update {
    /// When.
    #[serde(serialize_with = "as_text")]
    pub(super) timestamp: Timestamp,
    /// Its kind; `SYSTEM` where nobody chose one.
    pub(super) status: String,
    /// HTML.
    pub(super) text: String,
}

/// Times for programs: RFC 3339 with microseconds, UTC.
fn as_text<S: Serializer, T: Copy + Into<Option<Timestamp>>>(
    time: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    (*time).into().map(Timestamp::to_the_microsecond).serialize(serializer)
}

/// A table of incidents, a line for each.
pub(super) struct Table<'a>(pub(super) &'a [Incident]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("Nothing is active or scheduled.");
        }
        write!(
            f,
            "    id  impact       state      from (UTC)        to (UTC)          whose   title"
        )?;
        for incident in self.0 {
            write!(
                f,
                "\n{:>6}  {:<11}  {:<9}  {:<16}  {:<16}  {:<6}  {}: {}",
                incident.id.0,
                incident.impact.word(),
                incident.state,
                incident.start_date.to_the_minute(),
                minute(incident.end_date),
                whose(incident.system),
                incident.text,
                labels(&incident.components),
            )?;
        }
        Ok(())
    }
}

fn minute(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), Timestamp::to_the_minute)
}

fn whose(system: bool) -> &'static str {
    if system { "system" } else { "person" }
}

fn labels(components: &[Component]) -> String {
    components.iter().map(Component::label).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Incident {
    /// Everything about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "id:         {}", self.id)?;
        writeln!(f, "title:      {}", self.text)?;
        writeln!(f, "impact:     {}", self.impact)?;
        writeln!(f, "state:      {}", self.state)?;
        writeln!(f, "from:       {} UTC", self.start_date.to_the_minute())?;
        match self.end_date {
            Some(end) => writeln!(f, "to:         {} UTC", end.to_the_minute())?,
            None => writeln!(f, "to:         -")?,
        }
        writeln!(f, "whose:      {}", whose(self.system))?;
        write!(f, "components:")?;
        for component in &self.components {
            write!(f, " {} = {};", component.id, component.label())?;
        }
        write!(f, "\nupdates:")?;
        for Update { timestamp, status, text } in &self.updates {
            write!(f, "\n  {}  {status}: {text}", timestamp.to_the_minute())?;
        }
        Ok(())
    }
}

#[derive(FromRow)]
struct Row {
    id: IncidentId,
    text: String,
    impact: i16,
    start_date: Timestamp,
    end_date: Option<Timestamp>,
    system: bool,
    components: Vec<ComponentId>,
    times: Vec<Timestamp>,
    statuses: Vec<String>,
    texts: Vec<String>,
}

/// The columns of [`Row`] for those incidents `i` for which something holds.
macro_rules! select {
    ($which:literal) => {
        concat!(
            "SELECT i.id, sdb_readable(i.text) AS text, i.impact, i.start_date, i.end_date, i.system,
                ARRAY(SELECT component_id FROM incident_component_relation r
                    WHERE r.incident_id = i.id ORDER BY component_id) AS components,
                u.times, u.statuses, u.texts
            FROM incident i LEFT JOIN LATERAL (SELECT
                    coalesce(array_agg(\"timestamp\" ORDER BY \"timestamp\" DESC, id DESC), '{}')
                        AS times,
                    coalesce(array_agg(sdb_readable(status) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                        AS statuses,
                    coalesce(array_agg(sdb_readable(text) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                        AS texts
                FROM incident_status WHERE incident_id = i.id) AS u ON true
            WHERE ",
            $which,
            " ORDER BY i.start_date DESC, i.id DESC"
        )
    };
}

/// The database's clock.
pub(super) async fn now(database: &mut PgConnection) -> Result<Timestamp, sqlx::Error> {
    let clock = "SELECT clock_timestamp() AT TIME ZONE 'UTC'";
    sqlx::query_scalar(clock).fetch_one(database).await
}

/// What is active or scheduled, newest start first. Others may write impacts that mean nothing to us.
pub(super) async fn list(database: &mut PgConnection) -> Result<Vec<Incident>> {
    let now = now(database).await?;
    let rows = sqlx::query_as(select!(
        "(i.end_date IS NULL OR i.end_date > $1) AND i.impact BETWEEN 0 AND 3"
    ))
    .bind(now);
    let rows: Vec<Row> = rows.fetch_all(&mut *database).await?;
    with_components(database, rows, now).await
}

/// One incident or maintenance, whatever its state at that time.
///
/// # Errors
/// When there is none with that number, or the database fails.
pub(super) async fn read(
    database: &mut PgConnection,
    id: IncidentId,
    now: Timestamp,
) -> Result<Incident> {
    let row: Option<Row> =
        sqlx::query_as(select!("i.id = $1")).bind(id).fetch_optional(&mut *database).await?;
    let incidents = with_components(database, row.into_iter().collect(), now).await?;
    incidents.into_iter().next().with_context(|| unknown(id))
}

pub(super) fn unknown(id: IncidentId) -> String {
    format!("there is no incident {id}: `worker incident list` shows those that are active")
}

async fn with_components(
    database: &mut PgConnection,
    rows: Vec<Row>,
    now: Timestamp,
) -> Result<Vec<Incident>> {
    // Only these: the scope's lock may be held.
    let ids: BTreeSet<ComponentId> = rows.iter().flat_map(|row| &row.components).copied().collect();
    let ids: Vec<ComponentId> = ids.into_iter().collect();
    let catalogue: HashMap<ComponentId, Component> =
        components::read(database, &ids).await?.into_iter().map(|c| (c.id, c)).collect();
    let incident = |row: Row| -> Result<Incident> {
        let updates = row.times.into_iter().zip(row.statuses).zip(row.texts);
        Ok(Incident {
            id: row.id,
            text: row.text,
            impact: Impact::try_from(row.impact).with_context(|| format!("incident {}", row.id))?,
            state: State::at(now, row.start_date, row.end_date),
            start_date: row.start_date,
            end_date: row.end_date,
            system: row.system,
            components: row.components.iter().filter_map(|id| catalogue.get(id).cloned()).collect(),
            updates: updates
                .map(|((timestamp, status), text)| Update { timestamp, status, text })
                .collect(),
        })
    };
    rows.into_iter().map(incident).collect()
}
