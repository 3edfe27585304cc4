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

/// `covering`: which persons' incidents and maintenances have which of the components $1, at some
/// time from $2 to $3. A maintenance is one whoever opened it.
///
/// How it is found is not left to the planner, which knows neither how few incidents stand nor how
/// many a component once had, and would take the longer way when it guesses wrong. As a rule few stand,
/// and each is asked for its components. Where many do, each component is asked for its incidents since
/// the oldest that stands. So a batch pays neither for history nor for what stands elsewhere; but for a
/// component's incidents since an old one that still stands, where many do.
macro_rules! covering {
    () => {
        "standing AS MATERIALIZED (
            SELECT id FROM incident
            WHERE end_date IS NULL AND (NOT system OR impact = 0)
                AND impact BETWEEN 0 AND 3 AND start_date <= $3
            UNION ALL
            SELECT id FROM incident
            WHERE end_date > $2 AND (NOT system OR impact = 0)
                AND impact BETWEEN 0 AND 3 AND start_date <= $3
        ), are AS MATERIALIZED (
            SELECT count(*) <= 100 AS few FROM (SELECT FROM standing LIMIT 101) AS first
        ), oldest AS MATERIALIZED (
            SELECT least(
                (SELECT id FROM incident WHERE end_date IS NULL AND (NOT system OR impact = 0)
                    ORDER BY id LIMIT 1),
                (SELECT min(id) FROM
                    (SELECT id FROM incident WHERE end_date > $2 OFFSET 0) AS ending)) AS id
        ), covering AS MATERIALIZED (
            SELECT standing.id AS incident_id, r.component_id
            FROM standing, LATERAL (
                SELECT component_id FROM incident_component_relation
                WHERE incident_id = standing.id OFFSET 0
            ) AS r
            WHERE (SELECT few FROM are) AND r.component_id = ANY($1::integer[])
            UNION ALL
            SELECT i.id, touched.id
            FROM unnest($1::integer[]) AS touched (id), LATERAL (
                SELECT incident_id FROM incident_component_relation
                WHERE component_id = touched.id AND incident_id >= (SELECT id FROM oldest)
                OFFSET 0
            ) AS r, LATERAL (
                SELECT id FROM incident
                WHERE id = r.incident_id AND (NOT system OR impact = 0)
                    AND impact BETWEEN 0 AND 3 AND start_date <= $3
                    AND (end_date IS NULL OR end_date > $2)
                OFFSET 0
            ) AS i
            WHERE NOT (SELECT few FROM are)
        )"
    };
}

/// The active state, as far as these components go. `until` is the latest time that will be decided
/// at.
pub(crate) async fn read(
    database: &mut PgConnection,
    components: &[ComponentId],
    now: Timestamp,
    until: Timestamp,
) -> Result<ActiveState, sqlx::Error> {
    // Nothing counts less than 0 rows: that part is there for its locks alone.
    let rows: Vec<(IncidentId, String, i16, Timestamp)> = sqlx::query_as(concat!(
        "WITH ",
        covering!(),
        ", active AS (
            SELECT id, text, impact, start_date FROM incident
            WHERE system AND end_date IS NULL AND impact BETWEEN 1 AND 3
            ORDER BY id FOR UPDATE
        ), affected AS (
            SELECT FROM active, unnest($1) AS touched (id), LATERAL (
                SELECT FROM incident_component_relation
                WHERE incident_id = active.id AND component_id = touched.id FOR UPDATE
            ) AS locked
        ), manual AS (
            SELECT FROM (SELECT * FROM covering ORDER BY incident_id, component_id) AS c, LATERAL (
                SELECT FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
                WHERE i.id = c.incident_id AND r.component_id = c.component_id
                FOR SHARE OF i, r
            ) AS locked
        )
        SELECT id, text, impact, start_date FROM active
        UNION ALL
        SELECT 0, '', 0::smallint, localtimestamp WHERE (SELECT count(*) FROM affected) < 0
            OR (SELECT count(*) FROM manual) < 0",
    ))
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
    sqlx::query_as(concat!(
        "WITH ",
        covering!(),
        ", affected AS (
            SELECT ids.id AS incident_id, touched.id AS component_id
            FROM unnest($4::integer[]) AS ids (id), unnest($1) AS touched (id), LATERAL (
                SELECT FROM incident_component_relation
                WHERE incident_id = ids.id AND component_id = touched.id OFFSET 0
            ) AS related
        ), rest AS (
            SELECT ids.id, other.component_id IS NOT NULL AS has_others,
                (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = ids.id)
                    AS last_update_at
            FROM unnest($4::integer[]) AS ids (id)
            LEFT JOIN LATERAL (
                SELECT component_id FROM incident_component_relation r
                WHERE r.incident_id = ids.id AND component_id <> ALL($1)
                LIMIT 1 FOR UPDATE
            ) AS other ON true
        ), manual AS (
            SELECT c.component_id, i.*,
                (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = i.id)
                    AS last_update_at
            FROM covering c, LATERAL (
                SELECT id, text, impact, start_date, end_date FROM incident
                WHERE id = c.incident_id OFFSET 0
            ) AS i
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
    ))
    .bind(components)
    .bind(now)
    .bind(until)
    .bind(system)
    .fetch_all(database)
    .await
}

fn impact_of(number: i16) -> Result<Impact, sqlx::Error> {
    Impact::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
