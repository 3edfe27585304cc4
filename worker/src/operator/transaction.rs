//! The transactions in which an operator changes incidents.
//!
//! Each holds the scope's lock, as the transactions of batches do, so that it runs between two batches;
//! then it locks incidents, then relations, in order of their ids.
//!
//! All workers wait meanwhile. So the number of statements is fixed, however many components and
//! incidents there are: the catalogue is read before, and changes are collected and written set by set at
//! the end.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use shared::{
    database::components,
    domain::{
        component::{Component, ComponentId},
        impact::Impact,
        incident::{IncidentId, SYSTEM_STATUS},
        timestamp::Timestamp,
    },
};
use sqlx::PgConnection;

use super::incident::{self, Incident, IncidentKind, IncidentState, unknown};
use crate::{
    domain::timeline,
    store::{
        incidents,
        operator_changes::{self, IncidentRow, NewUpdate},
        state_lock::ScopeGuard,
    },
};

/// An incident that this transaction has locked, with its components.
pub(super) struct Locked {
    pub(super) id: IncidentId,
    pub(super) text: String,
    pub(super) impact: Impact,
    pub(super) start_date: Timestamp,
    pub(super) end_date: Option<Timestamp>,
    pub(super) components: BTreeSet<ComponentId>,
}

impl Locked {
    /// `incident 7` or `maintenance 7`.
    pub(super) fn name(&self) -> String {
        format!("{} {}", IncidentKind::of(self.impact).word(), self.id)
    }

    /// Refuses closed incidents, and those that the command does not apply to.
    pub(super) fn expect_open_as(&self, kind: IncidentKind, now: Timestamp) -> Result<()> {
        let its = IncidentKind::of(self.impact);
        ensure!(its == kind, "{} is no {}: see `worker {}`", self.name(), kind.word(), its.word());
        self.expect_open(now)
    }

    /// # Errors
    /// When it is closed.
    pub(super) fn expect_open(&self, now: Timestamp) -> Result<()> {
        let state = IncidentState::at(now, self.start_date, self.end_date);
        if let (IncidentState::Closed, Some(end)) = (state, self.end_date) {
            bail!("{} was closed at {} UTC", self.name(), end.to_the_minute());
        }
        Ok(())
    }
}

/// A change in progress.
pub(super) struct Change<'a> {
    pub(super) scope: ScopeGuard<'a>,
    /// Its time: later than every earlier decision.
    pub(super) now: Timestamp,
    /// Written at the end, in this order.
    notes: Vec<NewUpdate>,
    /// Components that leave an incident.
    left: Vec<(IncidentId, ComponentId)>,
    /// Incidents that end now; system incidents remain system incidents.
    closed: Vec<IncidentId>,
}

impl<'a> Change<'a> {
    /// Begins a change of these components, as they were read before.
    ///
    /// # Errors
    /// When the components are not as they were read, or the database fails.
    pub(super) async fn begin(
        database: &'a mut PgConnection,
        components: &[Component],
    ) -> Result<Self> {
        let mut scope = ScopeGuard::for_operator(database).await?;
        let now = scope.decide_now().await?;
        if !components.is_empty() {
            let ids: Vec<ComponentId> = components.iter().map(|component| component.id).collect();
            ensure!(
                components::read(scope.session(), &ids).await? == components,
                "the catalogue was changed meanwhile, and nothing was done: try again"
            );
        }
        Ok(Self { scope, now, notes: Vec::new(), left: Vec::new(), closed: Vec::new() })
    }

    /// Writes the collected changes and commits; returns the resulting incident.
    ///
    /// # Errors
    /// When the database fails. Nothing is changed then, unless only the answer to the commit was lost.
    pub(super) async fn commit(mut self, id: IncidentId) -> Result<Incident> {
        incidents::leave(&mut self.scope, &self.left).await?;
        operator_changes::end(&mut self.scope, &self.closed, self.now).await?;
        operator_changes::write_updates(&mut self.scope, &self.notes, self.now).await?;
        let incident = incident::read(self.scope.session(), id, self.now).await?;
        self.scope.commit().await?;
        Ok(incident)
    }

    /// Locks an incident, and the active ones that have one of these components.
    ///
    /// # Errors
    /// When there is no incident with the id, another transaction holds a row for too long, or the database
    /// fails.
    pub(super) async fn lock(
        &mut self,
        id: IncidentId,
        components: &[ComponentId],
    ) -> Result<(Locked, Vec<Locked>)> {
        let mut others = self.lock_all(Some(id), components).await?;
        let place = others.iter().position(|incident| incident.id == id);
        let incident = others.remove(place.with_context(|| unknown(id))?);
        Ok((incident, others))
    }

    /// Locks an incident, if one is named, and the active ones that have one of these components.
    pub(super) async fn lock_all(
        &mut self,
        id: Option<IncidentId>,
        components: &[ComponentId],
    ) -> Result<Vec<Locked>> {
        let mut rows = operator_changes::lock_incidents(&mut self.scope, id, components).await?;
        // Once they are locked: someone may have closed one meanwhile.
        rows.retain(|row| {
            let is_incident =
                Impact::try_from(row.impact).is_ok_and(|impact| impact != Impact::Maintenance);
            let is_active = row.end_date.is_none() && row.start_date <= self.now;
            id == Some(row.id) || is_incident && is_active
        });
        let ids: Vec<IncidentId> = rows.iter().map(|row| row.id).collect();
        let relations = operator_changes::lock_relations(&mut self.scope, &ids).await?;
        let mut components: HashMap<IncidentId, BTreeSet<ComponentId>> = HashMap::new();
        for (incident, component) in relations {
            components.entry(incident).or_default().insert(component);
        }
        let locked = |row: IncidentRow| -> Result<Locked> {
            Ok(Locked {
                id: row.id,
                text: row.text,
                impact: Impact::try_from(row.impact)
                    .with_context(|| format!("incident {}", row.id))?,
                start_date: row.start_date,
                end_date: row.end_date,
                components: components.remove(&row.id).unwrap_or_default(),
            })
        };
        rows.into_iter().map(locked).collect()
    }

    /// Writes a locked incident as it is from now on, a manual one.
    pub(super) async fn write(&mut self, incident: &Locked) -> Result<()> {
        let row = IncidentRow {
            id: incident.id,
            text: incident.text.clone(),
            impact: incident.impact.into(),
            start_date: incident.start_date,
            end_date: incident.end_date,
        };
        let written = operator_changes::update(&mut self.scope, &row).await?;
        ensure!(written, "{} is gone, though it is locked", incident.name());
        Ok(())
    }

    /// Adds an incident update.
    pub(super) fn note(&mut self, incident: IncidentId, status: &'static str, text: String) {
        self.notes.push(NewUpdate { incident, status, text });
    }

    /// Puts components into an incident.
    pub(super) async fn relate(
        &mut self,
        incident: IncidentId,
        components: &[ComponentId],
    ) -> Result<()> {
        let joined: Vec<_> = components.iter().map(|component| (incident, *component)).collect();
        Ok(incidents::join(&mut self.scope, &joined).await?)
    }

    /// Takes a component out of an incident.
    pub(super) fn separate(&mut self, incident: IncidentId, component: ComponentId) {
        self.left.push((incident, component));
    }

    /// Moves components from the other active incidents into this one, with the texts of a move. An
    /// incident that would lose all components is closed and keeps the last one for its history. Returns
    /// which were moved.
    pub(super) fn gather(
        &mut self,
        into: (IncidentId, &str),
        components: &[Component],
        others: Vec<Locked>,
    ) -> BTreeSet<ComponentId> {
        let named: HashMap<ComponentId, &Component> =
            components.iter().map(|component| (component.id, component)).collect();
        let mut moved = BTreeSet::new();
        for other in others {
            let from = (other.id, other.text.as_str());
            let mut left = other.components.len();
            for component in other.components.iter().filter_map(|id| named.get(id)) {
                let label = component.label();
                self.note(from.0, SYSTEM_STATUS, timeline::moved_to(&label, into));
                self.note(into.0, SYSTEM_STATUS, timeline::moved_from(&label, from));
                moved.insert(component.id);
                if left > 1 {
                    left -= 1;
                    self.separate(other.id, component.id);
                } else {
                    self.closed.push(other.id);
                    self.note(other.id, SYSTEM_STATUS, timeline::CLOSED.to_owned());
                }
            }
        }
        moved
    }

    /// # Errors
    /// When the end is not after the start, or not in the future.
    pub(super) fn check_window(&self, start: Timestamp, end: Timestamp) -> Result<()> {
        let (start_text, end_text) = (start.to_the_minute(), end.to_the_minute());
        ensure!(start < end, "the end, {end_text} UTC, is not after the start, {start_text} UTC");
        let now = self.now.to_the_minute();
        ensure!(self.now < end, "the end, {end_text} UTC, is not in the future: it is {now} UTC");
        Ok(())
    }
}
