//! Reads the active state that the decisions of a batch depend on.
//!
//! It is read without row locks. The scope's lock excludes other workers; concurrent commits of the
//! Python dashboard and of people are visible to the next reading. Rows that a change depends on are
//! locked by [`RowLocks`](super::row_locks::RowLocks) and read again before the change is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp};
use sqlx::FromRow;

use super::scope_lock::ScopeGuard;
use crate::domain::{ActiveState, IncidentRef, ManualIncident, SystemIncident};

/// The CTEs that [`StateRow`] is selected from: `system_incidents`, `system_components` and
/// `manual_incidents`, as far as the components `$1` go, at some time from `now` to `until` of the
/// CTE `clock`.
macro_rules! state_ctes {
    () => {
        concat!(
            $crate::store::covering::covering_ctes!(),
            ", manual_incidents AS (
            SELECT c.component_id, i.*,
                (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = i.id)
                    AS last_update_at
            FROM covering c, LATERAL (
                SELECT id, text, impact, start_date, end_date FROM incident
                WHERE id = c.incident_id OFFSET 0
            ) AS i
        ), system_incidents AS MATERIALIZED (
            SELECT id, text, impact, start_date,
                (SELECT true FROM incident_component_relation r
                    WHERE r.incident_id = incident.id AND r.component_id <> ALL($1) LIMIT 1)
                    IS NOT NULL AS has_others,
                (SELECT max(\"timestamp\") FROM incident_status s WHERE s.incident_id = incident.id)
                    AS last_update_at
            FROM incident WHERE system AND end_date IS NULL AND impact BETWEEN 1 AND 3
        ), system_components AS (
            SELECT i.id AS incident_id, touched.id AS component_id
            FROM system_incidents i, unnest($1) AS touched (id), LATERAL (
                SELECT FROM incident_component_relation
                WHERE incident_id = i.id AND component_id = touched.id OFFSET 0
            ) AS related
        )"
        )
    };
}
pub(crate) use state_ctes;

/// The tables in a FROM that have the columns of a [`StateRow`], one row each.
macro_rules! state_tables {
    () => {
        "(SELECT coalesce(array_agg(id ORDER BY id), '{}') AS system_ids,
                coalesce(array_agg(sdb_readable(text) ORDER BY id), '{}') AS system_texts,
                coalesce(array_agg(impact ORDER BY id), '{}') AS system_impacts,
                coalesce(array_agg(start_date ORDER BY id), '{}') AS system_starts,
                coalesce(array_agg(has_others ORDER BY id), '{}') AS system_has_others,
                coalesce(array_agg(last_update_at ORDER BY id), '{}') AS system_last_updates
            FROM system_incidents) AS state_1,
        (SELECT coalesce(array_agg(incident_id), '{}') AS affecting,
                coalesce(array_agg(component_id), '{}') AS affected
            FROM system_components) AS state_2,
        (SELECT coalesce(array_agg(component_id ORDER BY id, component_id), '{}')
                    AS manual_components,
                coalesce(array_agg(id ORDER BY id, component_id), '{}') AS manual_ids,
                coalesce(array_agg(sdb_readable(text) ORDER BY id, component_id), '{}')
                    AS manual_texts,
                coalesce(array_agg(impact ORDER BY id, component_id), '{}') AS manual_impacts,
                coalesce(array_agg(start_date ORDER BY id, component_id), '{}') AS manual_starts,
                coalesce(array_agg(end_date ORDER BY id, component_id), '{}') AS manual_ends,
                coalesce(array_agg(last_update_at ORDER BY id, component_id), '{}')
                    AS manual_last_updates
            FROM manual_incidents) AS state_3"
    };
}
pub(crate) use state_tables;

/// The active state as one row: columns with the same prefix are arrays of the same length.
#[derive(FromRow)]
pub(crate) struct StateRow {
    system_ids: Vec<IncidentId>,
    system_texts: Vec<String>,
    system_impacts: Vec<i16>,
    system_starts: Vec<Timestamp>,
    system_has_others: Vec<bool>,
    system_last_updates: Vec<Option<Timestamp>>,
    affecting: Vec<IncidentId>,
    affected: Vec<ComponentId>,
    manual_components: Vec<ComponentId>,
    manual_ids: Vec<IncidentId>,
    manual_texts: Vec<String>,
    manual_impacts: Vec<i16>,
    manual_starts: Vec<Timestamp>,
    manual_ends: Vec<Option<Timestamp>>,
    manual_last_updates: Vec<Option<Timestamp>>,
}

/// Reads the active state again, for these components. `until` is the time of the latest decision.
pub(crate) async fn read(
    scope: &mut ScopeGuard<'_>,
    components: &[ComponentId],
    now: Timestamp,
    until: Timestamp,
) -> Result<ActiveState, sqlx::Error> {
    let row: StateRow = sqlx::query_as(concat!(
        "WITH clock AS (SELECT $2::timestamp AS now, $3::timestamp AS until), ",
        state_ctes!(),
        " SELECT * FROM ",
        state_tables!(),
    ))
    .bind(components)
    .bind(now)
    .bind(until)
    .fetch_one(scope.session())
    .await?;
    row.try_into()
}

impl TryFrom<StateRow> for ActiveState {
    type Error = sqlx::Error;

    fn try_from(row: StateRow) -> Result<Self, sqlx::Error> {
        let mut system = BTreeMap::new();
        let texts_and_impacts = row.system_texts.into_iter().zip(row.system_impacts);
        let times = row.system_starts.into_iter().zip(row.system_last_updates);
        let keys = row.system_ids.into_iter().zip(row.system_has_others);
        for (((id, has_others), (text, impact)), (start_date, last_update_at)) in
            keys.zip(texts_and_impacts).zip(times)
        {
            let incident = SystemIncident {
                text,
                impact: impact_of(impact)?,
                start_date,
                end_date: None,
                components: BTreeSet::new(),
                has_others,
                last_update_at,
            };
            system.insert(IncidentRef::Existing(id), incident);
        }
        for (incident, component) in row.affecting.into_iter().zip(row.affected) {
            if let Some(incident) = system.get_mut(&IncidentRef::Existing(incident)) {
                incident.components.insert(component);
            }
        }
        let mut manual: HashMap<ComponentId, Vec<ManualIncident>> = HashMap::new();
        let keys = row.manual_components.into_iter().zip(row.manual_ids);
        let texts_and_impacts = row.manual_texts.into_iter().zip(row.manual_impacts);
        let times = row.manual_starts.into_iter().zip(row.manual_ends).zip(row.manual_last_updates);
        for (((component, id), (text, impact)), ((start_date, end_date), last_update_at)) in
            keys.zip(texts_and_impacts).zip(times)
        {
            let impact = impact_of(impact)?;
            let incident =
                ManualIncident { id, text, impact, start_date, end_date, last_update_at };
            manual.entry(component).or_default().push(incident);
        }
        Ok(Self::new(system, manual))
    }
}

fn impact_of(number: i16) -> Result<Impact, sqlx::Error> {
    Impact::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
