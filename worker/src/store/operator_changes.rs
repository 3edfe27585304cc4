//! The statements of an operator's change of incidents.
//!
//! A fixed number of statements, however many incidents and components there are: all workers wait for the
//! scope's lock meanwhile.

use shared::domain::{
    component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp,
};
use sqlx::FromRow;

use super::{incidents::column, state_lock::ScopeGuard};

/// An incident's own columns.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct IncidentRow {
    pub(crate) id: IncidentId,
    pub(crate) text: String,
    /// As it is stored: other programs may write unknown impacts.
    pub(crate) impact: i16,
    pub(crate) start_date: Timestamp,
    pub(crate) end_date: Option<Timestamp>,
}

/// A manual incident or a maintenance to insert.
pub(crate) struct NewIncident<'a> {
    pub(crate) text: &'a str,
    pub(crate) impact: Impact,
    pub(crate) start_date: Timestamp,
    pub(crate) end_date: Option<Timestamp>,
}

/// An incident update to write.
pub(crate) struct NewUpdate {
    pub(crate) incident: IncidentId,
    pub(crate) status: &'static str,
    pub(crate) text: String,
}

/// Locks an incident, and those without an end that have one of these components, in order of their ids.
pub(crate) async fn lock_incidents(
    scope: &mut ScopeGuard<'_>,
    id: Option<IncidentId>,
    components: &[ComponentId],
) -> Result<Vec<IncidentRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, sdb_readable(text) AS text, impact, start_date, end_date FROM incident
        WHERE id = ANY($1::integer || ARRAY(SELECT i.id FROM incident i
            WHERE end_date IS NULL AND EXISTS (SELECT FROM incident_component_relation r
                WHERE r.incident_id = i.id AND r.component_id = ANY($2))))
        ORDER BY id FOR UPDATE",
    )
    .bind(id)
    .bind(components)
    .fetch_all(scope.session())
    .await
}

/// Locks the relations of locked incidents. A separate statement, so that it sees what was committed
/// while the first one waited.
pub(crate) async fn lock_relations(
    scope: &mut ScopeGuard<'_>,
    incidents: &[IncidentId],
) -> Result<Vec<(IncidentId, ComponentId)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT incident_id, component_id FROM incident_component_relation
        WHERE incident_id = ANY($1) ORDER BY incident_id, component_id FOR UPDATE",
    )
    .bind(incidents)
    .fetch_all(scope.session())
    .await
}

/// Inserts a manual incident or a maintenance.
pub(crate) async fn insert(
    scope: &mut ScopeGuard<'_>,
    new: NewIncident<'_>,
) -> Result<IncidentId, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO incident (text, start_date, end_date, impact, system)
        VALUES ($1, $2, $3, $4, false) RETURNING id",
    )
    .bind(new.text)
    .bind(new.start_date)
    .bind(new.end_date)
    .bind(i16::from(new.impact))
    .fetch_one(scope.session())
    .await
}

/// Writes an incident as it is from now on, a manual one. False when it does not exist.
pub(crate) async fn update(
    scope: &mut ScopeGuard<'_>,
    incident: &IncidentRow,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query(
        "UPDATE incident SET text = $2, impact = $3, start_date = $4, end_date = $5,
            system = false WHERE id = $1",
    )
    .bind(incident.id)
    .bind(&incident.text)
    .bind(incident.impact)
    .bind(incident.start_date)
    .bind(incident.end_date)
    .execute(scope.session())
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Ends incidents; whether they are manual or system incidents does not change.
pub(crate) async fn end(
    scope: &mut ScopeGuard<'_>,
    incidents: &[IncidentId],
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    if incidents.is_empty() {
        return Ok(());
    }
    sqlx::query("UPDATE incident SET end_date = $2 WHERE id = ANY($1)")
        .bind(incidents)
        .bind(at)
        .execute(scope.session())
        .await?;
    Ok(())
}

/// Writes incident updates in this order, each later than the incident's last one even if that is ahead of
/// the clock.
pub(crate) async fn write_updates(
    scope: &mut ScopeGuard<'_>,
    updates: &[NewUpdate],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    if updates.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
        SELECT new.incident_id,
            greatest($4, last.at + interval '1 microsecond') + interval '1 microsecond'
                * (row_number() OVER (PARTITION BY new.incident_id ORDER BY new.place) - 1),
            new.text, new.status
        FROM unnest($1::integer[], $2::varchar[], $3::varchar[])
            WITH ORDINALITY AS new (incident_id, text, status, place)
        LEFT JOIN (SELECT incident_id, max(\"timestamp\") AS at FROM incident_status
            WHERE incident_id = ANY($1) GROUP BY incident_id) AS last USING (incident_id)
        ORDER BY new.place",
    )
    .bind(column(updates, |update| update.incident))
    .bind(column(updates, |update| update.text.as_str()))
    .bind(column(updates, |update| update.status))
    .bind(now)
    .execute(scope.session())
    .await?;
    Ok(())
}
