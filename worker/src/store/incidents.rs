//! Writes what a batch changed, set by set: each incident, relation and update once, however often
//! the batch touched it.

use std::collections::{BTreeSet, HashMap};

use shared::domain::{
    component::{Component, ComponentId},
    incident::{IncidentId, SYSTEM_STATUS},
    timestamp::Timestamp,
};

use super::state_lock::ScopeGuard;
use crate::domain::{
    ActiveState, IncidentRef, SystemIncident,
    timeline::{self, Names, TimelineEntry},
};

/// The state before and after a batch, and what happened between.
pub(crate) struct Changes<'a> {
    pub(crate) before: &'a ActiveState,
    pub(crate) after: &'a ActiveState,
    pub(crate) timeline: &'a [TimelineEntry],
    pub(crate) components: &'a HashMap<ComponentId, Component>,
}

/// Writes them; returns the ids of the incidents that were opened, in order.
///
/// Unchanged tables are not written: every statement on them invalidates the lists of readers.
///
/// # Errors
/// When the database refuses a row or fails; the transaction is rolled back, and the caller decides whether
/// the batch is tried again, halved or parked.
pub(crate) async fn write(
    scope: &mut ScopeGuard<'_>,
    changes: Changes<'_>,
) -> Result<Vec<IncidentId>, sqlx::Error> {
    let new_ids = new_ids(scope, changes.after.opened()).await?;
    let mut opened: Vec<(IncidentId, &SystemIncident)> = Vec::new();
    let mut updated: Vec<(IncidentId, &SystemIncident)> = Vec::new();
    let mut joined: Vec<(IncidentId, ComponentId)> = Vec::new();
    let mut left: Vec<(IncidentId, ComponentId)> = Vec::new();
    for (id, after) in changes.after.system.iter().chain(&changes.after.closed) {
        let before = changes.before.system.get(id);
        let incident = id.id(&new_ids);
        match before {
            None => opened.push((incident, after)),
            Some(before) if before.impact != after.impact || before.end_date != after.end_date => {
                updated.push((incident, after));
            }
            Some(_) => {}
        }
        let none = BTreeSet::new();
        let components = before.map_or(&none, |before| &before.components);
        joined.extend(after.components.difference(components).map(|c| (incident, *c)));
        left.extend(components.difference(&after.components).map(|c| (incident, *c)));
    }
    open_incidents(scope, &opened).await?;
    update_incidents(scope, &updated).await?;
    leave(scope, &left).await?;
    join(scope, &joined).await?;
    write_timeline(scope, &changes, &new_ids).await?;
    Ok(new_ids)
}

async fn new_ids(scope: &mut ScopeGuard<'_>, count: usize) -> Result<Vec<IncidentId>, sqlx::Error> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut ids: Vec<IncidentId> = sqlx::query_scalar(
        "SELECT nextval(pg_get_serial_sequence('incident', 'id'))::integer
        FROM generate_series(1, $1)",
    )
    .bind(count as i32)
    .fetch_all(scope.session())
    .await?;
    ids.sort_unstable();
    Ok(ids)
}

async fn open_incidents(
    scope: &mut ScopeGuard<'_>,
    opened: &[(IncidentId, &SystemIncident)],
) -> Result<(), sqlx::Error> {
    if opened.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO incident (id, text, start_date, end_date, impact, system)
        SELECT *, true FROM unnest($1::integer[], $2::varchar[], $3::timestamp[],
            $4::timestamp[], $5::smallint[])",
    )
    .bind(column(opened, |(id, _)| *id))
    .bind(column(opened, |(_, incident)| incident.text.as_str()))
    .bind(column(opened, |(_, incident)| incident.start_date))
    .bind(column(opened, |(_, incident)| incident.end_date))
    .bind(column(opened, |(_, incident)| i16::from(incident.impact)))
    .execute(scope.session())
    .await?;
    Ok(())
}

async fn update_incidents(
    scope: &mut ScopeGuard<'_>,
    updated: &[(IncidentId, &SystemIncident)],
) -> Result<(), sqlx::Error> {
    if updated.is_empty() {
        return Ok(());
    }
    let written = sqlx::query(
        "UPDATE incident SET impact = new.impact, end_date = new.end_date
        FROM unnest($1::integer[], $2::smallint[], $3::timestamp[]) AS new (id, impact, end_date)
        WHERE incident.id = new.id AND incident.system AND incident.end_date IS NULL",
    )
    .bind(column(updated, |(id, _)| *id))
    .bind(column(updated, |(_, incident)| i16::from(incident.impact)))
    .bind(column(updated, |(_, incident)| incident.end_date))
    .execute(scope.session())
    .await?;
    if written.rows_affected() != updated.len() as u64 {
        // The rows are locked, so this is impossible; otherwise the transaction must not commit.
        return Err(sqlx::Error::Protocol(format!(
            "{} of {} locked incidents could be updated",
            written.rows_affected(),
            updated.len()
        )));
    }
    Ok(())
}

/// Removes components from incidents.
pub(crate) async fn leave(
    scope: &mut ScopeGuard<'_>,
    left: &[(IncidentId, ComponentId)],
) -> Result<(), sqlx::Error> {
    if left.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM incident_component_relation r
        USING unnest($1::integer[], $2::integer[]) AS gone (incident_id, component_id)
        WHERE r.incident_id = gone.incident_id AND r.component_id = gone.component_id",
    )
    .bind(column(left, |(incident, _)| *incident))
    .bind(column(left, |(_, component)| *component))
    .execute(scope.session())
    .await?;
    Ok(())
}

/// Adds components to incidents.
pub(crate) async fn join(
    scope: &mut ScopeGuard<'_>,
    joined: &[(IncidentId, ComponentId)],
) -> Result<(), sqlx::Error> {
    if joined.is_empty() {
        return Ok(());
    }
    // The Python dashboard may have inserted the row since it was read.
    sqlx::query(
        "INSERT INTO incident_component_relation (incident_id, component_id)
        SELECT * FROM unnest($1::integer[], $2::integer[]) ON CONFLICT DO NOTHING",
    )
    .bind(column(joined, |(incident, _)| *incident))
    .bind(column(joined, |(_, component)| *component))
    .execute(scope.session())
    .await?;
    Ok(())
}

async fn write_timeline(
    scope: &mut ScopeGuard<'_>,
    changes: &Changes<'_>,
    new_ids: &[IncidentId],
) -> Result<(), sqlx::Error> {
    if changes.timeline.is_empty() {
        return Ok(());
    }
    let names = NamesOfBatch::new(changes, new_ids);
    let entries: Vec<(IncidentId, Timestamp, String)> = changes
        .timeline
        .iter()
        .map(|entry| {
            let words = timeline::words(&entry.event, entry.incident, &names);
            (entry.incident.id(new_ids), entry.at, words)
        })
        .collect();
    sqlx::query(
        "INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
        SELECT incident_id, at, text, $4
        FROM unnest($1::integer[], $2::timestamp[], $3::varchar[])
            WITH ORDINALITY AS entry (incident_id, at, text, place)
        ORDER BY place",
    )
    .bind(column(&entries, |entry| entry.0))
    .bind(column(&entries, |entry| entry.1))
    .bind(column(&entries, |entry| entry.2.as_str()))
    .bind(SYSTEM_STATUS)
    .execute(scope.session())
    .await?;
    Ok(())
}

/// One column of rows, to be bound.
pub(crate) fn column<'a, T, C>(rows: &'a [T], value: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(value).collect()
}

struct NamesOfBatch<'a> {
    state: &'a ActiveState,
    labels: HashMap<ComponentId, String>,
    new_ids: &'a [IncidentId],
}

impl<'a> NamesOfBatch<'a> {
    fn new(changes: &Changes<'a>, new_ids: &'a [IncidentId]) -> Self {
        let labels = changes.components.iter().map(|(id, c)| (*id, c.label())).collect();
        Self { state: changes.after, labels, new_ids }
    }
}

#[expect(
    clippy::expect_used,
    reason = "events name components that were read for the batch, and incidents of its state"
)]
impl Names for NamesOfBatch<'_> {
    fn component(&self, id: ComponentId) -> &str {
        self.labels.get(&id).expect("the component was read for the batch")
    }

    fn incident(&self, id: IncidentRef) -> (IncidentId, &str) {
        let incident = self.state.any_incident(id).expect("the incident is in the state");
        (id.id(self.new_ids), &incident.text)
    }
}
