//! The transactions that change incidents for an operator.
//!
//! Each holds the scope's lock, as every deciding transaction does, so that it stands between two
//! batches; then it locks as `state` does: incidents, then relations, in order of their ids. Whatever
//! makes no sense ends it, and nothing of it stays.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, bail, ensure};
use shared::{
    component::{Component, ComponentId},
    impact::Impact,
    incident::IncidentId,
    timestamp::Timestamp,
};
use sqlx::{Connection, FromRow, PgConnection, Postgres, Transaction};

use super::{
    component::{self, ComponentName},
    incident::{self, Incident, State, name, unknown},
};
use crate::history;

/// Takes the scope's lock in a transaction that an operator began. Every worker waits for it: the
/// transaction is ended by PostgreSQL when the command stalls, or waits for others that stall.
pub(crate) const LOCK_SCOPE: &str = "SET LOCAL idle_in_transaction_session_timeout = '5s';
    SELECT FROM sdb_scope FOR UPDATE;
    SET LOCAL lock_timeout = '5s'";

/// The two kinds of incidents, each with commands of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Incident,
    Maintenance,
}

impl Kind {
    const fn of(impact: Impact) -> Self {
        match impact {
            Impact::Maintenance => Self::Maintenance,
            Impact::Minor | Impact::Major | Impact::Outage => Self::Incident,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Incident => "incident",
            Self::Maintenance => "maintenance",
        }
    }

    /// The status words of the Python dashboard that only say something.
    const fn comments(self) -> &'static [&'static str] {
        match self {
            Self::Incident => &["analyzing", "fixing", "observing"],
            Self::Maintenance => &["scheduled", "in progress"],
        }
    }

    /// Its status word for what has none of its own.
    const fn changed(self) -> &'static str {
        match self {
            Self::Incident => "changed",
            Self::Maintenance => "modified",
        }
    }

    /// Its status word at the end.
    const fn closed(self) -> &'static str {
        match self {
            Self::Incident => "resolved",
            Self::Maintenance => "completed",
        }
    }
}

/// Its status word when a person changes the impact.
const IMPACT_CHANGED: &str = "impact changed";
/// Its status word for what a maintenance is about.
const DESCRIPTION: &str = "description";

/// What is new.
pub(super) enum New {
    Incident { impact: Impact, start: Option<Timestamp> },
    Maintenance { start: Timestamp, end: Timestamp, description: Option<String> },
}

/// What is to be otherwise; what is none or empty stays.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) title: Option<String>,
    pub(super) impact: Option<Impact>,
    pub(super) start: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
    pub(super) add: Vec<ComponentName>,
}

/// How an incident or a maintenance ends.
pub(super) struct Closing {
    /// When; now, unless it is given.
    pub(super) at: Option<Timestamp>,
    /// What its update says.
    pub(super) text: String,
}

/// An incident that this transaction has locked, with its components.
struct Locked {
    id: IncidentId,
    text: String,
    impact: Impact,
    start_date: Timestamp,
    end_date: Option<Timestamp>,
    components: BTreeSet<ComponentId>,
}

impl Locked {
    fn name(&self) -> String {
        name(self.id, self.impact)
    }

    /// Refuses what is over, and what the command is not for.
    fn open_as(&self, kind: Kind, now: Timestamp) -> Result<()> {
        let its = Kind::of(self.impact);
        ensure!(its == kind, "{} is no {}: see `worker {}`", self.name(), kind.word(), its.word());
        self.open(now)
    }

    fn open(&self, now: Timestamp) -> Result<()> {
        match (State::at(now, self.start_date, self.end_date), self.end_date) {
            (State::Closed, Some(end)) => {
                bail!("{} was closed at {} UTC", self.name(), end.to_the_minute())
            }
            (State::Closed | State::Scheduled | State::Active, _) => Ok(()),
        }
    }
}

/// A change under way.
struct Change<'a> {
    transaction: Transaction<'a, Postgres>,
    /// When it takes place: later than every decision before it.
    now: Timestamp,
}

impl<'a> Change<'a> {
    async fn begin(database: &'a mut PgConnection) -> Result<Self> {
        let mut transaction = database.begin().await?;
        sqlx::raw_sql(LOCK_SCOPE).execute(&mut *transaction).await?;
        // What a person changes is a decision, too: the next one is later even if the clock goes back.
        let now = sqlx::query_scalar(
            "UPDATE sdb_scope SET decided_at = greatest(clock_timestamp() AT TIME ZONE 'UTC',
                decided_at + interval '1 microsecond') RETURNING decided_at",
        )
        .fetch_one(&mut *transaction)
        .await?;
        Ok(Self { transaction, now })
    }

    /// Commits; returns the incident as it stands then.
    async fn commit(mut self, id: IncidentId) -> Result<Incident> {
        let incident = incident::read(&mut self.transaction, id).await?;
        self.transaction.commit().await?;
        Ok(incident)
    }

    /// Locks an incident, and the active ones that have one of these components.
    async fn lock(
        &mut self,
        id: IncidentId,
        components: &[ComponentId],
    ) -> Result<(Locked, Vec<Locked>)> {
        let mut others = self.lock_all(Some(id), components).await?;
        let place = others.iter().position(|incident| incident.id == id);
        let incident = others.remove(place.with_context(|| unknown(id))?);
        Ok((incident, others))
    }

    async fn lock_all(
        &mut self,
        id: Option<IncidentId>,
        components: &[ComponentId],
    ) -> Result<Vec<Locked>> {
        #[derive(FromRow)]
        struct Row {
            id: IncidentId,
            text: String,
            impact: i16,
            start_date: Timestamp,
            end_date: Option<Timestamp>,
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, text, impact, start_date, end_date FROM incident i
            WHERE id = $1 OR (end_date IS NULL AND impact BETWEEN 1 AND 3 AND start_date <= $3
                AND EXISTS (SELECT FROM incident_component_relation r
                    WHERE r.incident_id = i.id AND r.component_id = ANY($2)))
            ORDER BY id FOR UPDATE",
        )
        .bind(id)
        .bind(components)
        .bind(self.now)
        .fetch_all(&mut *self.transaction)
        .await?;
        let ids: Vec<IncidentId> = rows.iter().map(|row| row.id).collect();
        // A statement of its own: it sees what a writer did that was waited for.
        let relations: Vec<(IncidentId, ComponentId)> = sqlx::query_as(
            "SELECT incident_id, component_id FROM incident_component_relation
            WHERE incident_id = ANY($1) ORDER BY incident_id, component_id FOR UPDATE",
        )
        .bind(ids)
        .fetch_all(&mut *self.transaction)
        .await?;
        let locked = |Row { id, text, impact, start_date, end_date }| -> Result<Locked> {
            let components = relations.iter().filter(|(incident, _)| *incident == id);
            Ok(Locked {
                id,
                text,
                impact: Impact::try_from(impact)?,
                start_date,
                end_date,
                components: components.map(|(_, component)| *component).collect(),
            })
        };
        rows.into_iter().map(locked).collect()
    }

    /// Writes a locked incident as it is to be from now on, a person's.
    async fn write(&mut self, incident: &Locked) -> Result<()> {
        let written = sqlx::query(
            "UPDATE incident SET text = $2, impact = $3, start_date = $4, end_date = $5,
                system = false WHERE id = $1",
        )
        .bind(incident.id)
        .bind(&incident.text)
        .bind(i16::from(incident.impact))
        .bind(incident.start_date)
        .bind(incident.end_date)
        .execute(&mut *self.transaction)
        .await?;
        ensure!(written.rows_affected() == 1, "{} is gone, though it is locked", incident.name());
        Ok(())
    }

    /// Adds an update, later than the incident's last one even if that lies ahead of the clock.
    async fn note(&mut self, incident: IncidentId, status: &str, text: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
            SELECT $1, greatest($2, max(\"timestamp\") + interval '1 microsecond'), $3, $4
            FROM incident_status WHERE incident_id = $1",
        )
        .bind(incident)
        .bind(self.now)
        .bind(text)
        .bind(status)
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }

    async fn relate(&mut self, incident: IncidentId, components: &[ComponentId]) -> Result<()> {
        // The Python dashboard may have written the row since it was looked for.
        sqlx::query(
            "INSERT INTO incident_component_relation (incident_id, component_id)
            SELECT $1, component_id FROM unnest($2::integer[]) AS component_id
            ON CONFLICT DO NOTHING",
        )
        .bind(incident)
        .bind(components)
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }

    async fn separate(&mut self, incident: IncidentId, component: ComponentId) -> Result<()> {
        sqlx::query(
            "DELETE FROM incident_component_relation WHERE incident_id = $1 AND component_id = $2",
        )
        .bind(incident)
        .bind(component)
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }

    /// Takes components out of the other active incidents into this one, in the words of a move. An
    /// incident of which none would be left is closed and keeps the last one as its history.
    /// Returns which were moved.
    async fn gather(
        &mut self,
        into: (IncidentId, &str),
        components: &[Component],
        others: Vec<Locked>,
    ) -> Result<BTreeSet<ComponentId>> {
        let mut moved = BTreeSet::new();
        for other in others {
            let from = (other.id, other.text.as_str());
            let mut left = other.components.len();
            for component in components.iter().filter(|c| other.components.contains(&c.id)) {
                let label = component.label();
                self.note(from.0, history::STATUS, &history::moved_to(&label, into)).await?;
                self.note(into.0, history::STATUS, &history::moved_from(&label, from)).await?;
                moved.insert(component.id);
                if left > 1 {
                    left -= 1;
                    self.separate(other.id, component.id).await?;
                } else {
                    // Not `write`: it stays whose it was.
                    sqlx::query("UPDATE incident SET end_date = $2 WHERE id = $1")
                        .bind(other.id)
                        .bind(self.now)
                        .execute(&mut *self.transaction)
                        .await?;
                    self.note(other.id, history::STATUS, history::CLOSED).await?;
                }
            }
        }
        Ok(moved)
    }

    fn check_window(&self, start: Timestamp, end: Timestamp) -> Result<()> {
        let (start_text, end_text) = (start.to_the_minute(), end.to_the_minute());
        ensure!(start < end, "the end, {end_text} UTC, is not after the start, {start_text} UTC");
        let now = self.now.to_the_minute();
        ensure!(self.now < end, "the end, {end_text} UTC, is not in the future: it is {now} UTC");
        Ok(())
    }
}

fn ids(components: &[Component]) -> Vec<ComponentId> {
    components.iter().map(|component| component.id).collect()
}

/// Opens a person's incident, or schedules a maintenance.
pub(super) async fn open(
    database: &mut PgConnection,
    new: New,
    title: String,
    components: &[ComponentName],
) -> Result<Incident> {
    let mut change = Change::begin(database).await?;
    let components = component::find(&mut change.transaction, components).await?;
    let component_ids = ids(&components);
    let (impact, start, end, description) = match new {
        New::Incident { impact, start } => {
            let start = start.unwrap_or(change.now);
            ensure!(
                start <= change.now,
                "an incident can't begin in the future, at {} UTC: it is {} UTC",
                start.to_the_minute(),
                change.now.to_the_minute()
            );
            (impact, start, None, None)
        }
        New::Maintenance { start, end, description } => {
            change.check_window(start, end)?;
            (Impact::Maintenance, start, Some(end), description)
        }
    };
    // A maintenance comes beside what is active.
    let others = match Kind::of(impact) {
        Kind::Incident => change.lock_all(None, &component_ids).await?,
        Kind::Maintenance => Vec::new(),
    };
    let id: IncidentId = sqlx::query_scalar(
        "INSERT INTO incident (text, start_date, end_date, impact, system)
        VALUES ($1, $2, $3, $4, false) RETURNING id",
    )
    .bind(&title)
    .bind(start)
    .bind(end)
    .bind(i16::from(impact))
    .fetch_one(&mut *change.transaction)
    .await?;
    change.relate(id, &component_ids).await?;
    if let Some(description) = description {
        change.note(id, DESCRIPTION, &description).await?;
    }
    change.gather((id, &title), &components, others).await?;
    change.commit(id).await
}

/// Writes what a person says about an incident or a maintenance.
pub(super) async fn comment(
    database: &mut PgConnection,
    id: IncidentId,
    status: &str,
    text: &str,
) -> Result<Incident> {
    let mut change = Change::begin(database).await?;
    let (incident, _) = change.lock(id, &[]).await?;
    incident.open(change.now)?;
    let kind = Kind::of(incident.impact);
    if !kind.comments().contains(&status) {
        let words: Vec<String> = kind.comments().iter().map(|word| format!("`{word}`")).collect();
        bail!(
            "`{status}` is no status of a comment on {}: write {}; other commands have words of \
            their own",
            incident.name(),
            words.join(" or ")
        );
    }
    change.write(&incident).await?;
    change.note(id, status, text).await?;
    change.commit(id).await
}

/// Changes an incident or a maintenance.
pub(super) async fn change(
    database: &mut PgConnection,
    id: IncidentId,
    kind: Kind,
    wanted: Wanted,
) -> Result<Incident> {
    let mut change = Change::begin(database).await?;
    let Wanted { title, impact, start, end, add } = wanted;
    let add = component::find(&mut change.transaction, &add).await?;
    // A maintenance comes beside what is active.
    let gathered = match kind {
        Kind::Incident => ids(&add),
        Kind::Maintenance => Vec::new(),
    };
    let (mut incident, others) = change.lock(id, &gathered).await?;
    incident.open_as(kind, change.now)?;
    let name = incident.name();

    let mut notes: Vec<(&str, String)> = Vec::new();
    if let Some(title) = title {
        ensure!(title != incident.text, "{name} has this title already");
        notes.push((kind.changed(), history::title_changed(&incident.text, &title)));
        incident.text = title;
    }
    if let Some(impact) = impact {
        ensure!(impact != incident.impact, "{name} is {impact} already");
        notes.push((IMPACT_CHANGED, history::impact_changed(incident.impact, impact)));
        incident.impact = impact;
    }
    if let Some(start) = start {
        let before = incident.start_date;
        ensure!(start != before, "{name} has this start already");
        notes.push((kind.changed(), time_changed("start", Some(before), start)));
        incident.start_date = start;
    }
    if let Some(end) = end {
        ensure!(Some(end) != incident.end_date, "{name} has this end already");
        notes.push((kind.changed(), time_changed("end", incident.end_date, end)));
        incident.end_date = Some(end);
    }
    if let (Kind::Maintenance, Some(end)) = (kind, incident.end_date) {
        change.check_window(incident.start_date, end)?;
    }
    let there = add.iter().find(|component| incident.components.contains(&component.id));
    if let Some(there) = there {
        bail!("{} is in {name} already", there.label());
    }

    change.write(&incident).await?;
    for (status, text) in notes {
        change.note(id, status, &text).await?;
    }
    change.relate(id, &ids(&add)).await?;
    let moved = change.gather((id, &incident.text), &add, others).await?;
    for component in add.iter().filter(|component| !moved.contains(&component.id)) {
        let text = history::added(&component.label(), &incident.text);
        change.note(id, kind.changed(), &text).await?;
    }
    change.commit(id).await
}

fn time_changed(what: &str, before: Option<Timestamp>, after: Timestamp) -> String {
    let before = before.map_or_else(|| "none".to_owned(), Timestamp::to_the_minute);
    format!("{what} changed from {before} to {} UTC", after.to_the_minute())
}

/// Closes an incident, or ends a maintenance.
pub(super) async fn close(
    database: &mut PgConnection,
    id: IncidentId,
    kind: Kind,
    closing: Closing,
) -> Result<Incident> {
    let mut change = Change::begin(database).await?;
    let (mut incident, _) = change.lock(id, &[]).await?;
    incident.open_as(kind, change.now)?;
    let at = closing.at.unwrap_or(change.now);
    ensure!(
        at >= incident.start_date,
        "{} can't end at {} UTC: it begins at {} UTC",
        incident.name(),
        at.to_the_minute(),
        incident.start_date.to_the_minute()
    );
    ensure!(
        at <= change.now,
        "{} can't end in the future, at {} UTC: it is {} UTC",
        incident.name(),
        at.to_the_minute(),
        change.now.to_the_minute()
    );
    incident.end_date = Some(at);
    change.write(&incident).await?;
    change.note(id, kind.closed(), &closing.text).await?;
    change.commit(id).await
}

/// Takes a component out of an incident or a maintenance, and leaves it whose it is.
pub(super) async fn remove_component(
    database: &mut PgConnection,
    id: IncidentId,
    component: ComponentName,
) -> Result<Incident> {
    let mut change = Change::begin(database).await?;
    let found = component::find(&mut change.transaction, &[component]).await?;
    let component = found.first().ok_or_else(|| anyhow!("no component is named"))?;
    let (incident, _) = change.lock(id, &[]).await?;
    incident.open(change.now)?;
    let (name, label) = (incident.name(), component.label());
    ensure!(incident.components.contains(&component.id), "{label} is not in {name}");
    let kind = Kind::of(incident.impact);
    let end = match kind {
        Kind::Incident => "`worker incident close` closes it",
        Kind::Maintenance => "`worker maintenance end` ends it",
    };
    ensure!(incident.components.len() > 1, "{label} is the only component of {name}: {end}");
    change.separate(id, component.id).await?;
    change.note(id, kind.changed(), &history::removed(&label, &incident.text)).await?;
    change.commit(id).await
}
