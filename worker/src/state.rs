//! Reads what a batch's decisions look at, and locks it against foreign writers.
//!
//! Every statement here comes after the scope's lock, so it sees all that earlier deciders wrote.
//! What the Python dashboard writes, it writes without that lock: the incident and relation rows
//! that decisions rest on are therefore locked too, in order of their ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp};
use sqlx::{FromRow, PgConnection};

use crate::decision::{ActiveState, IncidentRef, ManualIncident, SystemIncident};

/// The active state, as far as these components go. `until` is the latest time that will be decided
/// at.
///
/// The incidents are locked by a statement of their own: the next one then sees what a writer did
/// that was waited for.
pub(crate) async fn read(
    database: &mut PgConnection,
    components: &[ComponentId],
    now: Timestamp,
    until: Timestamp,
) -> Result<ActiveState, sqlx::Error> {
    let rows: Vec<(IncidentId, String, i16, Timestamp)> = sqlx::query_as(
        "SELECT id, text, impact, start_date FROM incident
        WHERE system AND end_date IS NULL AND impact BETWEEN 1 AND 3
        ORDER BY id FOR UPDATE",
    )
    .fetch_all(&mut *database)
    .await?;
    let ids: Vec<IncidentId> = rows.iter().map(|row| row.0).collect();
    let mut system = BTreeMap::new();
    for (id, text, impact, start_date) in rows {
        let incident = SystemIncident {
            text,
            impact: impact_of(impact)?,
            start_date,
            end_date: None,
            components: BTreeSet::new(),
            has_others: false,
            last_update_at: None,
        };
        system.insert(IncidentRef::Standing(id), incident);
    }
    let mut manual: HashMap<ComponentId, Vec<ManualIncident>> = HashMap::new();
    for related in related(database, &ids, components, now, until).await? {
        let Related { incident: id, component, has_others, impact, last_update_at, .. } = related;
        match (component, impact, system.get_mut(&IncidentRef::Standing(id))) {
            (Some(component), Some(impact), _) => {
                let (Some(text), Some(start_date)) = (related.text, related.start_date) else {
                    continue;
                };
                manual.entry(component).or_default().push(ManualIncident {
                    id,
                    text,
                    impact: impact_of(impact)?,
                    start_date,
                    end_date: related.end_date,
                    last_update_at,
                });
            }
            (Some(component), None, Some(incident)) => {
                incident.components.insert(component);
            }
            (None, _, Some(incident)) => {
                incident.has_others = has_others;
                incident.last_update_at = last_update_at;
            }
            (_, None, None) | (None, Some(_), None) => {}
        }
    }
    Ok(ActiveState::new(system, manual))
}

/// One of three things: that an active system incident has a component of the batch; what else there
/// is about such an incident (without a component); or that a manual incident has a component of the
/// batch (with an impact).
#[derive(FromRow)]
struct Related {
    incident: IncidentId,
    component: Option<ComponentId>,
    has_others: bool,
    text: Option<String>,
    impact: Option<i16>,
    start_date: Option<Timestamp>,
    end_date: Option<Timestamp>,
    last_update_at: Option<Timestamp>,
}

async fn related(
    database: &mut PgConnection,
    system: &[IncidentId],
    components: &[ComponentId],
    now: Timestamp,
    until: Timestamp,
) -> Result<Vec<Related>, sqlx::Error> {
    // One component outside the batch is enough to know that a component of the batch is not the
    // only one; it is locked, so that it stays until the commit.
    //
    // A maintenance is one whoever opened it.
    sqlx::query_as(
        "WITH affected AS (
            SELECT incident_id, component_id FROM incident_component_relation
            WHERE incident_id = ANY($1) AND component_id = ANY($2)
            ORDER BY incident_id, component_id FOR UPDATE
        ), others AS (
            SELECT ids.id, other.component_id IS NOT NULL AS has_others,
                (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = ids.id)
                    AS last_update_at
            FROM unnest($1::integer[]) AS ids (id)
            LEFT JOIN LATERAL (
                SELECT component_id FROM incident_component_relation r
                WHERE r.incident_id = ids.id AND component_id <> ALL($2)
                LIMIT 1 FOR UPDATE
            ) AS other ON true
        ), manual AS (
            SELECT i.id, r.component_id, i.text, i.impact, i.start_date, i.end_date,
                (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = i.id)
                    AS last_update_at
            FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
            WHERE r.component_id = ANY($2)
                AND (NOT i.system OR i.impact = 0) AND i.impact BETWEEN 0 AND 3
                AND i.start_date <= $4 AND (i.end_date IS NULL OR i.end_date > $3)
            ORDER BY i.id, r.component_id FOR SHARE OF i, r
        )
        SELECT incident_id AS incident, component_id AS component, false AS has_others,
            NULL AS text, NULL::smallint AS impact, NULL::timestamp AS start_date,
            NULL::timestamp AS end_date, NULL::timestamp AS last_update_at FROM affected
        UNION ALL
        SELECT id, NULL, has_others, NULL, NULL, NULL, NULL, last_update_at FROM others
        UNION ALL
        SELECT id, component_id, false, text, impact, start_date, end_date, last_update_at
        FROM manual",
    )
    .bind(system)
    .bind(components)
    .bind(now)
    .bind(until)
    .fetch_all(database)
    .await
}

fn impact_of(number: i16) -> Result<Impact, sqlx::Error> {
    Impact::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
