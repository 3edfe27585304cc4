//! Reads what a batch's decisions look at, and locks it against foreign writers.
//!
//! Every statement here comes after the scope's lock, so it sees all that earlier deciders wrote.
//! What the Python dashboard writes, it writes without that lock: the incident and relation rows
//! that decisions rest on are therefore locked too, in order of their ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp};
use sqlx::PgConnection;

use crate::decision::{ActiveState, IncidentRef, ManualIncident, SystemIncident};

/// The active state, as far as these components go. `until` is the latest time that will be decided
/// at.
pub(crate) async fn read(
    database: &mut PgConnection,
    components: &[ComponentId],
    now: Timestamp,
    until: Timestamp,
) -> Result<ActiveState, sqlx::Error> {
    let system = system_incidents(database, components).await?;
    let manual = manual_incidents(database, components, now, until).await?;
    Ok(ActiveState::new(system, manual))
}

async fn system_incidents(
    database: &mut PgConnection,
    components: &[ComponentId],
) -> Result<BTreeMap<IncidentRef, SystemIncident>, sqlx::Error> {
    let rows: Vec<(IncidentId, String, i16, Timestamp)> = sqlx::query_as(
        "SELECT id, text, impact, start_date FROM incident
        WHERE system AND end_date IS NULL AND impact BETWEEN 1 AND 3
        ORDER BY id FOR UPDATE",
    )
    .fetch_all(&mut *database)
    .await?;
    if rows.is_empty() {
        return Ok(BTreeMap::new());
    }
    let ids: Vec<IncidentId> = rows.iter().map(|row| row.0).collect();

    let relations: Vec<(IncidentId, ComponentId)> = sqlx::query_as(
        "SELECT incident_id, component_id FROM incident_component_relation
        WHERE incident_id = ANY($1) AND component_id = ANY($2)
        ORDER BY incident_id, component_id FOR UPDATE",
    )
    .bind(&ids)
    .bind(components)
    .fetch_all(&mut *database)
    .await?;
    let mut affected: HashMap<IncidentId, BTreeSet<ComponentId>> = HashMap::new();
    for (incident, component) in relations {
        affected.entry(incident).or_default().insert(component);
    }

    // One component outside the batch is enough to know that a component of the batch is not the
    // only one; it is locked, so that it stays until the commit.
    let rest: Vec<(IncidentId, bool, Option<Timestamp>)> = sqlx::query_as(
        "SELECT ids.id, other.component_id IS NOT NULL,
            (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = ids.id)
        FROM unnest($1::integer[]) AS ids (id)
        LEFT JOIN LATERAL (
            SELECT component_id FROM incident_component_relation r
            WHERE r.incident_id = ids.id AND component_id <> ALL($2)
            LIMIT 1 FOR UPDATE
        ) AS other ON true",
    )
    .bind(&ids)
    .bind(components)
    .fetch_all(database)
    .await?;
    let mut rest: HashMap<IncidentId, (bool, Option<Timestamp>)> =
        rest.into_iter().map(|(id, has_others, last)| (id, (has_others, last))).collect();

    rows.into_iter()
        .map(|(id, text, impact, start_date)| {
            let (has_others, last_update_at) = rest.remove(&id).unwrap_or_default();
            let incident = SystemIncident {
                text,
                impact: impact_of(impact)?,
                start_date,
                end_date: None,
                components: affected.remove(&id).unwrap_or_default(),
                has_others,
                last_update_at,
            };
            Ok((IncidentRef::Standing(id), incident))
        })
        .collect()
}

async fn manual_incidents(
    database: &mut PgConnection,
    components: &[ComponentId],
    now: Timestamp,
    until: Timestamp,
) -> Result<HashMap<ComponentId, Vec<ManualIncident>>, sqlx::Error> {
    type Row =
        (ComponentId, IncidentId, String, i16, Timestamp, Option<Timestamp>, Option<Timestamp>);
    // A maintenance is one whoever opened it.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT r.component_id, i.id, i.text, i.impact, i.start_date, i.end_date,
            (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = i.id)
        FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
        WHERE r.component_id = ANY($1)
            AND (NOT i.system OR i.impact = 0) AND i.impact BETWEEN 0 AND 3
            AND i.start_date <= $3 AND (i.end_date IS NULL OR i.end_date > $2)
        ORDER BY i.id, r.component_id FOR SHARE OF i, r",
    )
    .bind(components)
    .bind(now)
    .bind(until)
    .fetch_all(database)
    .await?;
    let mut by_component: HashMap<ComponentId, Vec<ManualIncident>> = HashMap::new();
    for (component, id, text, impact, start_date, end_date, last_update_at) in rows {
        let impact = impact_of(impact)?;
        by_component.entry(component).or_default().push(ManualIncident {
            id,
            text,
            impact,
            start_date,
            end_date,
            last_update_at,
        });
    }
    Ok(by_component)
}

fn impact_of(number: i16) -> Result<Impact, sqlx::Error> {
    Impact::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
