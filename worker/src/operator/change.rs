//! The changes that an operator makes. An invalid one rolls its transaction back.

use anyhow::{Result, bail, ensure};
use shared::domain::{
    component::{Component, ComponentId},
    impact::Impact,
    incident::IncidentId,
    timestamp::Timestamp,
};
use sqlx::PgConnection;

use super::{
    component::{self, ComponentName},
    incident::{Incident, IncidentKind},
    transaction::{Change, Locked},
};
use crate::{
    domain::timeline,
    store::operator_changes::{self, NewIncident},
};

/// The status word when an operator changes an incident's impact.
const IMPACT_CHANGED: &str = "impact changed";
/// The status word for the description of a maintenance.
const DESCRIPTION: &str = "description";

/// An incident to open, or a maintenance to schedule.
pub(crate) enum New {
    Incident { impact: Impact, start: Option<Timestamp> },
    Maintenance { start: Timestamp, end: Timestamp, description: Option<String> },
}

/// The changes; fields that are none or empty stay as they are.
#[derive(Default)]
pub(crate) struct IncidentChange {
    pub(crate) title: Option<String>,
    pub(crate) impact: Option<Impact>,
    pub(crate) start: Option<Timestamp>,
    pub(crate) end: Option<Timestamp>,
    pub(crate) add: Vec<ComponentName>,
}

/// How an incident or a maintenance ends.
pub(crate) struct Closing {
    /// The time; now if none.
    pub(crate) at: Option<Timestamp>,
    /// The text of the incident update.
    pub(crate) text: String,
}

fn ids(components: &[Component]) -> Vec<ComponentId> {
    components.iter().map(|component| component.id).collect()
}

/// Opens a manual incident, or schedules a maintenance.
///
/// # Errors
/// When a component is unknown, or the times are not those of such an incident, or the database fails.
/// Nothing is changed then.
pub(crate) async fn open(
    database: &mut PgConnection,
    new: New,
    title: &str,
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
    // A maintenance does not take components from active incidents.
    let others = match IncidentKind::of(impact) {
        IncidentKind::Incident => change.lock_all(None, &component_ids).await?,
        IncidentKind::Maintenance => Vec::new(),
    };
    let new = NewIncident { text: title, impact, start_date: start, end_date: end };
    let id = operator_changes::insert(&mut change.scope, new).await?;
    change.relate(id, &component_ids).await?;
    if let Some(description) = description {
        change.note(id, DESCRIPTION, description);
    }
    change.gather((id, title), &components, others);
    change.commit(id).await
}

/// Comments an incident or a maintenance.
///
/// # Errors
/// When there is no such incident, it is closed, the status is not one of comments, or the database fails.
/// Nothing is changed then.
pub(crate) async fn comment(
    database: &mut PgConnection,
    id: IncidentId,
    status: &str,
    text: String,
) -> Result<Incident> {
    let mut change = Change::begin(database, &[]).await?;
    let (incident, _) = change.lock(id, &[]).await?;
    incident.expect_open(change.now)?;
    let kind = IncidentKind::of(incident.impact);
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
    change.note(id, status, text);
    change.commit(id).await
}

/// Changes an incident or a maintenance.
///
/// # Errors
/// When there is no such incident, it is closed or of the other kind, a component is unknown, the new times
/// are not possible, or the database fails. Nothing is changed then.
pub(crate) async fn change(
    database: &mut PgConnection,
    id: IncidentId,
    kind: IncidentKind,
    wanted: IncidentChange,
) -> Result<Incident> {
    let add = component::find(database, &wanted.add).await?;
    let mut change = Change::begin(database, &add).await?;
    // A maintenance does not take components from active incidents.
    let gathered = match kind {
        IncidentKind::Incident => ids(&add),
        IncidentKind::Maintenance => Vec::new(),
    };
    let (mut incident, others) = change.lock(id, &gathered).await?;
    incident.expect_open_as(kind, change.now)?;
    let name = incident.name();
    let notes = edit(&mut incident, kind, wanted)?;
    if let (IncidentKind::Maintenance, Some(end)) = (kind, incident.end_date) {
        change.check_window(incident.start_date, end)?;
    }
    // Its components would leave their incidents for one that does not cover them yet.
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

/// Changes its own columns; returns the status and text of an incident update for each.
fn edit(
    incident: &mut Locked,
    kind: IncidentKind,
    wanted: IncidentChange,
) -> Result<Vec<(&'static str, String)>> {
    let IncidentChange { title, impact, start, end, add: _ } = wanted;
    let name = incident.name();
    let mut notes = Vec::new();
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
    Ok(notes)
}

fn time_changed(what: &str, before: Option<Timestamp>, after: Timestamp) -> String {
    let before = before.map_or_else(|| "none".to_owned(), Timestamp::to_the_minute);
    format!("{what} changed from {before} to {} UTC", after.to_the_minute())
}

/// Closes an incident, or ends a maintenance.
///
/// # Errors
/// When there is no such incident, it is closed or of the other kind, the time is not possible, or the
/// database fails. Nothing is changed then.
pub(crate) async fn close(
    database: &mut PgConnection,
    id: IncidentId,
    kind: IncidentKind,
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

/// Takes a component out of an incident or a maintenance; a system incident stays one.
///
/// # Errors
/// When there is no such incident, it is closed, it does not have the component, or the database fails.
/// Nothing is changed then.
pub(crate) async fn remove_component(
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
    let kind = IncidentKind::of(incident.impact);
    let end = match kind {
        IncidentKind::Incident => "`worker incident close` closes it",
        IncidentKind::Maintenance => "`worker maintenance end` ends it",
    };
    ensure!(incident.components.len() > 1, "{label} is the only component of {name}: {end}");
    change.separate(id, component.id);
    change.note(id, kind.changed(), timeline::removed(&label, &incident.text));
    change.commit(id).await
}
