//! What an operator changes about incidents. Whatever makes no sense ends the transaction, and nothing
//! of it stays.

use anyhow::{Result, bail, ensure};
use shared::{
    component::{Component, ComponentId},
    impact::Impact,
    incident::IncidentId,
    timestamp::Timestamp,
};
use sqlx::PgConnection;

use super::{
    component::{self, ComponentName},
    incident::{Incident, Kind},
    transaction::Change,
};
use crate::domain::timeline;

/// The status word when a person changes an incident's impact.
const IMPACT_CHANGED: &str = "impact changed";
/// The status word for what a maintenance is about.
const DESCRIPTION: &str = "description";

/// What is new.
pub(super) enum New {
    Incident { impact: Impact, start: Option<Timestamp> },
    Maintenance { start: Timestamp, end: Timestamp, description: Option<String> },
}

/// What is to be otherwise; what is none or empty stays.
#[derive(Default)]
pub(super) struct IncidentChange {
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

fn ids(components: &[Component]) -> Vec<ComponentId> {
    components.iter().map(|component| component.id).collect()
}

/// Opens a manual incident, or schedules a maintenance.
pub(super) async fn open(
    database: &mut PgConnection,
    new: New,
    title: String,
    components: &[ComponentName],
) -> Result<Incident> {
    let components = component::find(database, components).await?;
    let mut change = Change::begin(database, &components).await?;
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
    .fetch_one(change.scope.session())
    .await?;
    change.relate(id, &component_ids).await?;
    if let Some(description) = description {
        change.note(id, DESCRIPTION, description);
    }
    change.gather((id, &title), &components, others);
    change.commit(id).await
}

/// Writes what a person says about an incident or a maintenance.
pub(super) async fn comment(
    database: &mut PgConnection,
    id: IncidentId,
    status: &str,
    text: &str,
) -> Result<Incident> {
    let mut change = Change::begin(database, &[]).await?;
    let (incident, _) = change.lock(id, &[]).await?;
    incident.expect_open(change.now)?;
    let kind = Kind::of(incident.impact);
    let Some(status) = kind.comments().iter().copied().find(|word| *word == status) else {
        let words: Vec<String> = kind.comments().iter().map(|word| format!("`{word}`")).collect();
        bail!(
            "`{status}` is no status of a comment on {}: write {}; other commands have words of \
            their own",
            incident.name(),
            words.join(" or ")
        );
    };
    change.write(&incident).await?;
    change.note(id, status, text.to_owned());
    change.commit(id).await
}

/// Changes an incident or a maintenance.
pub(super) async fn change(
    database: &mut PgConnection,
    id: IncidentId,
    kind: Kind,
    wanted: IncidentChange,
) -> Result<Incident> {
    let IncidentChange { title, impact, start, end, add } = wanted;
    let add = component::find(database, &add).await?;
    let mut change = Change::begin(database, &add).await?;
    // A maintenance comes beside what is active.
    let gathered = match kind {
        Kind::Incident => ids(&add),
        Kind::Maintenance => Vec::new(),
    };
    let (mut incident, others) = change.lock(id, &gathered).await?;
    incident.expect_open_as(kind, change.now)?;
    let name = incident.name();

    let mut notes: Vec<(&str, String)> = Vec::new();
    if let Some(title) = title {
        ensure!(title != incident.text, "{name} has this title already");
        notes.push((kind.changed(), timeline::title_changed(&incident.text, &title)));
        incident.text = title;
    }
    if let Some(impact) = impact {
        ensure!(impact != incident.impact, "{name} is {impact} already");
        notes.push((IMPACT_CHANGED, timeline::impact_changed(incident.impact, impact)));
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
    // Its components would leave the incidents that they are in, for one that covers nothing yet.
    let covers = incident.start_date <= change.now && incident.end_date.is_none();
    ensure!(
        covers || gathered.is_empty(),
        "{name} is not active at this moment, so that it can't take components over"
    );
    let there = add.iter().find(|component| incident.components.contains(&component.id));
    if let Some(there) = there {
        bail!("{} is in {name} already", there.label());
    }

    change.write(&incident).await?;
    for (status, text) in notes {
        change.note(id, status, text);
    }
    change.relate(id, &ids(&add)).await?;
    let moved = change.gather((id, &incident.text), &add, others);
    for component in add.iter().filter(|component| !moved.contains(&component.id)) {
        let text = timeline::added(&component.label(), &incident.text);
        change.note(id, kind.changed(), text);
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
    let mut change = Change::begin(database, &[]).await?;
    let (mut incident, _) = change.lock(id, &[]).await?;
    incident.expect_open_as(kind, change.now)?;
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
    change.note(id, kind.closed(), closing.text);
    change.commit(id).await
}

/// Takes a component out of an incident or a maintenance, and leaves it whose it is.
pub(super) async fn remove_component(
    database: &mut PgConnection,
    id: IncidentId,
    component: ComponentName,
) -> Result<Incident> {
    let found = component::find(database, &[component]).await?;
    let mut change = Change::begin(database, &found).await?;
    let [component] = found.as_slice() else { bail!("one component must be named") };
    let (incident, _) = change.lock(id, &[]).await?;
    incident.expect_open(change.now)?;
    let (name, label) = (incident.name(), component.label());
    ensure!(incident.components.contains(&component.id), "{label} is not in {name}");
    let kind = Kind::of(incident.impact);
    let end = match kind {
        Kind::Incident => "`worker incident close` closes it",
        Kind::Maintenance => "`worker maintenance end` ends it",
    };
    ensure!(incident.components.len() > 1, "{label} is the only component of {name}: {end}");
    change.separate(id, component.id);
    change.note(id, kind.changed(), timeline::removed(&label, &incident.text));
    change.commit(id).await
}
