//! Reads the active state that the decisions of a batch depend on.
//!
//! It is read without row locks. The scope's lock excludes other workers; concurrent commits of the
//! Python dashboard and of people are visible to the next reading. Rows that a change depends on are
//! locked by [`RowLocks`](super::incident_row_locks::RowLocks) and read again before the change is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::domain::{
    component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp,
};
use sqlx::{FromRow, postgres::PgRow};

use super::state_lock::ScopeGuard;
use crate::domain::{ActiveState, IncidentRef, ManualIncident, SystemIncident};

/// The CTEs of the [`system_tables`]: the active system incidents, and which of the components `$1` they have.
macro_rules! system_ctes {
    () => {
        "system_incidents AS MATERIALIZED (
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
    };
}
pub(crate) use system_ctes;

/// The CTEs of the [`manual_table`]: the manual incidents and maintenances that cover the components `$1` at
/// some time from `now` to `until` of the CTE `clock`.
macro_rules! manual_ctes {
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
        )"
        )
    };
}
pub(crate) use manual_ctes;

/// Tables in a FROM, one row each, with the columns of a [`SystemRow`]. No array is ordered: for each that is,
/// PostgreSQL would set up a sort.
macro_rules! system_tables {
    () => {
        "(SELECT coalesce(array_agg(id), '{}') AS system_ids,
                coalesce(array_agg(sdb_readable(text)), '{}') AS system_texts,
                coalesce(array_agg(impact), '{}') AS system_impacts,
                coalesce(array_agg(start_date), '{}') AS system_starts,
                coalesce(array_agg(has_others), '{}') AS system_has_others,
                coalesce(array_agg(last_update_at), '{}') AS system_last_updates
            FROM system_incidents) AS state_1,
        (SELECT coalesce(array_agg(incident_id), '{}') AS affecting,
                coalesce(array_agg(component_id), '{}') AS affected
            FROM system_components) AS state_2"
    };
}
pub(crate) use system_tables;

/// The same for a [`ManualRow`].
macro_rules! manual_table {
    () => {
        "(SELECT coalesce(array_agg(component_id), '{}') AS manual_components,
                coalesce(array_agg(id), '{}') AS manual_ids,
                coalesce(array_agg(sdb_readable(text)), '{}') AS manual_texts,
                coalesce(array_agg(impact), '{}') AS manual_impacts,
                coalesce(array_agg(start_date), '{}') AS manual_starts,
                coalesce(array_agg(end_date), '{}') AS manual_ends,
                coalesce(array_agg(last_update_at), '{}') AS manual_last_updates
            FROM manual_incidents) AS state_3"
    };
}
pub(crate) use manual_table;

/// The active system incidents as one row: columns with the same prefix are arrays of the same length.
#[derive(FromRow)]
struct SystemRow {
    system_ids: Vec<IncidentId>,
    system_texts: Vec<String>,
    system_impacts: Vec<i16>,
    system_starts: Vec<Timestamp>,
    system_has_others: Vec<bool>,
    system_last_updates: Vec<Option<Timestamp>>,
    affecting: Vec<IncidentId>,
    affected: Vec<ComponentId>,
}

/// The same for manual incidents and maintenances.
#[derive(FromRow)]
struct ManualRow {
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
    let row = sqlx::query(concat!(
        "WITH clock AS (SELECT $2::timestamp AS now, $3::timestamp AS until), ",
        manual_ctes!(),
        ", ",
        system_ctes!(),
        " SELECT * FROM ",
        system_tables!(),
        ", ",
        manual_table!(),
    ))
    .bind(components)
    .bind(now)
    .bind(until)
    .fetch_one(scope.session())
    .await?;
    from_row(&row, true)
}

/// The active state of a row, which has the columns of manual incidents or, if there are none, need not.
pub(super) fn from_row(row: &PgRow, has_manual: bool) -> Result<ActiveState, sqlx::Error> {
    let system = SystemRow::from_row(row)?.incidents()?;
    let manual =
        if has_manual { ManualRow::from_row(row)?.incidents()? } else { HashMap::default() };
    Ok(ActiveState::new(system, manual))
}

impl SystemRow {
    fn incidents(self) -> Result<BTreeMap<IncidentRef, SystemIncident>, sqlx::Error> {
        let mut incidents = BTreeMap::new();
        let texts_and_impacts = self.system_texts.into_iter().zip(self.system_impacts);
        let times = self.system_starts.into_iter().zip(self.system_last_updates);
        let keys = self.system_ids.into_iter().zip(self.system_has_others);
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
            incidents.insert(IncidentRef::Existing(id), incident);
        }
        for (incident, component) in self.affecting.into_iter().zip(self.affected) {
            if let Some(incident) = incidents.get_mut(&IncidentRef::Existing(incident)) {
                incident.components.insert(component);
            }
        }
        Ok(incidents)
    }
}

impl ManualRow {
    fn incidents(self) -> Result<HashMap<ComponentId, Vec<ManualIncident>>, sqlx::Error> {
        let mut incidents: HashMap<ComponentId, Vec<ManualIncident>> = HashMap::new();
        let keys = self.manual_components.into_iter().zip(self.manual_ids);
        let texts_and_impacts = self.manual_texts.into_iter().zip(self.manual_impacts);
        let times =
            self.manual_starts.into_iter().zip(self.manual_ends).zip(self.manual_last_updates);
        for (((component, id), (text, impact)), ((start_date, end_date), last_update_at)) in
            keys.zip(texts_and_impacts).zip(times)
        {
            let impact = impact_of(impact)?;
            let incident =
                ManualIncident { id, text, impact, start_date, end_date, last_update_at };
            incidents.entry(component).or_default().push(incident);
        }
        Ok(incidents)
    }
}

fn impact_of(number: i16) -> Result<Impact, sqlx::Error> {
    Impact::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
