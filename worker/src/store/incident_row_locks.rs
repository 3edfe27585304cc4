//! Locks the rows that a batch's changes depend on, against writers that do not use the scope's lock.
//!
//! The Python dashboard and people with psql may lock incidents and relations for any time. So a batch
//! locks only the rows that its changes depend on, and never waits: rows locked by another session are
//! skipped, and the updates that need them are deferred.

use std::collections::HashSet;

use shared::domain::{component::ComponentId, incident::IncidentId};
use sqlx::FromRow;

use super::state_lock::ScopeGuard;
use crate::domain::{ActiveState, IncidentRef, RestsOn};

/// A row that a change depends on, or any one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockableRow {
    /// An incident. While it is locked, no component can be added to it, because of the relation's
    /// foreign key.
    Incident(IncidentId),
    /// A component of an incident.
    Relation(IncidentId, ComponentId),
    /// Any component of an incident that the batch has no updates of.
    AnyOther(IncidentId),
    /// A component: while it is locked, it can't be deleted.
    Component(ComponentId),
}

impl LockableRow {
    /// The rows that a change of the component's incidents depends on. `read` is the state as it was read:
    /// only incidents in it have rows.
    pub(crate) fn of(rests_on: &RestsOn, component: ComponentId, read: &ActiveState) -> Vec<Self> {
        let mut rows = Vec::new();
        if let Some(IncidentRef::Existing(target)) = rests_on.target {
            rows.push(Self::Incident(target));
        }
        for source in &rests_on.sources {
            if let IncidentRef::Existing(id) = source.from {
                Self::of_source(id, source.others_stay, component, read, &mut rows);
            }
        }
        rows
    }

    fn of_source(
        source: IncidentId,
        others_stay: bool,
        component: ComponentId,
        read: &ActiveState,
        rows: &mut Vec<Self>,
    ) {
        rows.push(Self::Incident(source));
        let Some(incident) = read.system.get(&IncidentRef::Existing(source)) else { return };
        if incident.components.contains(&component) {
            rows.push(Self::Relation(source, component));
        }
        if others_stay {
            if incident.has_others {
                rows.push(Self::AnyOther(source));
            } else {
                let others = incident.components.iter().filter(|other| **other != component);
                rows.extend(others.map(|other| Self::Relation(source, *other)));
            }
        }
    }
}

/// The rows that a transaction has locked, and those that another session has locked.
#[derive(Debug, Default)]
pub(crate) struct RowLocks {
    locked: HashSet<LockableRow>,
    held: HashSet<LockableRow>,
}

impl RowLocks {
    /// Those of these rows that another session has locked.
    pub(crate) fn held_of(&self, rows: &[LockableRow]) -> Vec<LockableRow> {
        rows.iter().filter(|row| self.held.contains(row)).copied().collect()
    }

    /// The rows that are not locked yet.
    pub(crate) fn missing<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a LockableRow>,
    ) -> Vec<LockableRow> {
        let missing: HashSet<LockableRow> =
            rows.into_iter().filter(|row| !self.locked.contains(row)).copied().collect();
        missing.into_iter().collect()
    }

    /// Locks these rows without waiting, and skips those that others have locked. `batch` are the
    /// components that the batch has updates of.
    ///
    /// # Errors
    /// When the database fails. Rows that others have locked are no error.
    pub(crate) async fn take(
        &mut self,
        scope: &mut ScopeGuard<'_>,
        rows: &[LockableRow],
        batch: &[ComponentId],
    ) -> Result<(), sqlx::Error> {
        let (mut incidents, mut others, mut components) = (Vec::new(), Vec::new(), Vec::new());
        let (mut relation_incidents, mut relation_components) = (Vec::new(), Vec::new());
        for row in rows {
            match *row {
                LockableRow::Incident(id) => incidents.push(id),
                LockableRow::Relation(id, component) => {
                    relation_incidents.push(id);
                    relation_components.push(component);
                }
                LockableRow::AnyOther(id) => others.push(id),
                LockableRow::Component(id) => components.push(id),
            }
        }
        let taken: LockedRows = sqlx::query_as(LOCK)
            .bind(incidents)
            .bind(relation_incidents)
            .bind(relation_components)
            .bind(others)
            .bind(batch)
            .bind(components)
            .fetch_one(scope.session())
            .await?;
        self.locked.extend(taken.rows());
        self.held.extend(rows.iter().filter(|row| !self.locked.contains(row)));
        Ok(())
    }
}

/// Locks incidents ($1), relations ($2 and $3, pairs), and for each of some incidents ($4) any relation with
/// a component that is not among $5, and components ($6); returns which could be locked.
///
/// Each kind is a CTE of its own, which runs once and as a whole, in this order. Incidents are locked in
/// the order of their ids. A pair or an id of a list can't be locked, so each is joined laterally with
/// the row that is.
const LOCK: &str = "WITH incidents AS MATERIALIZED (
        SELECT id FROM incident WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED
    ), relations AS MATERIALIZED (
        SELECT pair.* FROM unnest($2::integer[], $3::integer[])
            AS pair (incident_id, component_id), LATERAL (
            SELECT FROM incident_component_relation r
            WHERE r.incident_id = pair.incident_id AND r.component_id = pair.component_id
            FOR UPDATE SKIP LOCKED
        ) AS locked
    ), others AS MATERIALIZED (
        SELECT wanted.id FROM unnest($4::integer[]) AS wanted (id), LATERAL (
            SELECT FROM incident_component_relation r
            WHERE r.incident_id = wanted.id AND r.component_id <> ALL($5)
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS locked
    )
    SELECT ARRAY(SELECT id FROM incidents) AS incidents,
        ARRAY(SELECT incident_id FROM relations ORDER BY incident_id, component_id)
            AS relation_incidents,
        ARRAY(SELECT component_id FROM relations ORDER BY incident_id, component_id)
            AS relation_components,
        ARRAY(SELECT id FROM others) AS others,
        CASE WHEN $6::integer[] = '{}' THEN '{}' ELSE ARRAY(SELECT sdb_keep_components($6)) END
            AS components";

/// What [`LOCK`] has locked.
#[derive(FromRow)]
struct LockedRows {
    incidents: Vec<IncidentId>,
    relation_incidents: Vec<IncidentId>,
    relation_components: Vec<ComponentId>,
    others: Vec<IncidentId>,
    components: Vec<ComponentId>,
}

impl LockedRows {
    fn rows(self) -> impl Iterator<Item = LockableRow> {
        let relations = self.relation_incidents.into_iter().zip(self.relation_components);
        let incidents = self.incidents.into_iter().map(LockableRow::Incident);
        incidents
            .chain(
                relations.map(|(incident, component)| LockableRow::Relation(incident, component)),
            )
            .chain(self.others.into_iter().map(LockableRow::AnyOther))
            .chain(self.components.into_iter().map(LockableRow::Component))
    }
}
