//! Reads what a batch's decisions look at, and locks it against foreign writers.
//!
//! Every statement here comes after the scope's lock, so it sees all that earlier deciders wrote.
//! What the Python dashboard writes, it writes without that lock: the incident and relation rows
//! that decisions rest on are therefore locked too, in order of their ids. A statement that had to
//! wait for such a writer skips what it took away, but does not see what it wrote instead; so all is
//! locked by one statement, and read by the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};

use crate::decision::{ActiveState, IncidentRef, ManualIncident, SystemIncident};

/// The active state, as far as these components go. `until` is the latest time that will be decided
/// at.
pub(crate) async fn read(
    database: &mut PgConnection,
    components: &[ComponentId],
    now: Timestamp,
    until: Timestamp,
) -> Result<ActiveState, sqlx::Error> {
    // Nothing counts less than 0 rows: that part is there for its locks alone.
    let rows: Vec<(IncidentId, String, i16, Timestamp)> = sqlx::query_as(
        "WITH active AS (
            SELECT id, text, impact, start_date FROM incident
            WHERE system AND end_date IS NULL AND impact BETWEEN 1 AND 3
            ORDER BY id FOR UPDATE
        ), affected AS (
            SELECT FROM incident_component_relation
            WHERE incident_id = ANY(ARRAY(SELECT id FROM active)) AND component_id = ANY($1)
            ORDER BY incident_id, component_id FOR UPDATE
        ), manual AS (
            SELECT FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
            WHERE r.component_id = ANY($1) AND (NOT i.system OR i.impact = 0)
                AND i.start_date <= $3 AND (i.end_date IS NULL OR i.end_date > $2)
            ORDER BY i.id, r.component_id FOR SHARE OF i, r
        )
        SELECT id, text, impact, start_date FROM active
        UNION ALL
        SELECT 0, '', 0::smallint, localtimestamp WHERE (SELECT count(*) FROM affected) < 0
            OR (SELECT count(*) FROM manual) < 0",
    )
    .bind(components)
    .bind(now)
    .bind(until)
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
        match related {
            Related::Affected { incident, component } => {
                if let Some(incident) = system.get_mut(&IncidentRef::Standing(incident)) {
                    incident.components.insert(component);
                }
            }
            Related::Rest { incident, has_others, last_update_at } => {
                if let Some(incident) = system.get_mut(&IncidentRef::Standing(incident)) {
                    incident.has_others = has_others;
                    incident.last_update_at = last_update_at;
                }
            }
            Related::Manual { component, incident } => {
                manual.entry(component).or_default().push(incident);
            }
        }
    }
    Ok(ActiveState::new(system, manual))
}

/// What the components of a batch, and the active system incidents, have to do with each other.
enum Related {
    /// A system incident has this component of the batch.
    Affected { incident: IncidentId, component: ComponentId },
    /// What else there is to know of a system incident.
    Rest { incident: IncidentId, has_others: bool, last_update_at: Option<Timestamp> },
    /// A person's incident, or a maintenance, has this component of the batch.
    Manual { component: ComponentId, incident: ManualIncident },
}

impl FromRow<'_, PgRow> for Related {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let incident = row.try_get("incident")?;
        Ok(match row.try_get("what")? {
            "affected" => Self::Affected { incident, component: row.try_get("component")? },
            "rest" => Self::Rest {
                incident,
                has_others: row.try_get("has_others")?,
                last_update_at: row.try_get("last_update_at")?,
            },
            _manual => Self::Manual {
                component: row.try_get("component")?,
                incident: ManualIncident {
                    id: incident,
                    text: row.try_get("text")?,
                    impact: impact_of(row.try_get("impact")?)?,
                    start_date: row.try_get("start_date")?,
                    end_date: row.try_get("end_date")?,
                    last_update_at: row.try_get("last_update_at")?,
                },
            },
        })
    }
}

/// One statement for three questions, since each costs a round trip while other workers wait.
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
        ), rest AS (
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
        SELECT 'affected' AS what, incident_id AS incident, component_id AS component,
            NULL::boolean AS has_others, NULL AS text, NULL::smallint AS impact,
            NULL::timestamp AS start_date, NULL::timestamp AS end_date,
            NULL::timestamp AS last_update_at
        FROM affected
        UNION ALL
        SELECT 'rest', id, NULL, has_others, NULL, NULL, NULL, NULL, last_update_at FROM rest
        UNION ALL
        SELECT 'manual', id, component_id, NULL, text, impact, start_date, end_date, last_update_at
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
