//! The active incidents, as far as they concern the components of a batch: the state on which the rules decide,
//! and which a batch changes update by update.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::domain::{
    component::ComponentId, impact::Impact, incident::IncidentSnapshot, timestamp::Timestamp,
};

use super::{
    incident_ref::IncidentRef,
    timeline::{TimelineEntry, TimelineEvent},
};

/// A status update, as the rules see it, beside what it says of its component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The component.
    pub component: ComponentId,
    /// The title of an incident that the update opens.
    pub text: &'a str,
    /// When it is decided.
    pub at: Timestamp,
}

/// An active system incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIncident {
    /// Its title.
    pub text: String,
    /// Its impact, never `Maintenance`.
    pub impact: Impact,
    /// Its start.
    pub start_date: Timestamp,
    /// Its end, which only an incident that the batch closed has.
    pub end_date: Option<Timestamp>,
    /// Those of its components of which the batch has updates.
    pub components: BTreeSet<ComponentId>,
    /// Whether it has other components.
    pub has_others: bool,
    /// The time of its newest timeline entry.
    pub last_update_at: Option<Timestamp>,
}

impl SystemIncident {
    /// Whether it has only one component, of those that the batch has updates of.
    pub(super) fn has_one_component(&self) -> bool {
        self.components.len() == 1 && !self.has_others
    }
}

/// A manual incident or a maintenance, as far as it can cover a component.
///
/// A maintenance has the impact `Maintenance`. Start and end may be in the future.
pub type ManualIncident = IncidentSnapshot;

/// The state on which the rules decide: the active incidents, as far as they concern the components of a
/// batch.
#[derive(Clone, Debug, Default)]
pub struct ActiveState {
    /// The active system incidents. Those that the batch closes move to `closed`.
    pub system: BTreeMap<IncidentRef, SystemIncident>,
    /// Manual incidents and maintenances by component, ordered by id ([`Self::new`]).
    pub manual: HashMap<ComponentId, Vec<ManualIncident>>,
    /// The incidents that the batch closed.
    pub closed: BTreeMap<IncidentRef, SystemIncident>,
    /// The number of incidents that the batch has opened.
    opened: usize,
}

impl ActiveState {
    /// The state before a batch.
    #[must_use]
    pub fn new(
        system: BTreeMap<IncidentRef, SystemIncident>,
        mut manual: HashMap<ComponentId, Vec<ManualIncident>>,
    ) -> Self {
        // If several cover a component, the answer has the one with the lowest id.
        manual.values_mut().for_each(|incidents| incidents.sort_by_key(|incident| incident.id));
        Self { system, manual, ..Self::default() }
    }

    /// The number of incidents that the batch has opened: `New(0)` to `New(opened - 1)`.
    #[must_use]
    pub const fn opened(&self) -> usize {
        self.opened
    }

    /// A system incident that is active or that the batch closed.
    #[must_use]
    pub fn any_incident(&self, id: IncidentRef) -> Option<&SystemIncident> {
        self.system.get(&id).or_else(|| self.closed.get(&id))
    }

    /// The manual incidents and maintenances that can cover the component.
    pub(super) fn manual_of(&self, component: ComponentId) -> &[ManualIncident] {
        self.manual.get(&component).map_or(&[], Vec::as_slice)
    }

    /// A manual incident or a maintenance that can cover the component.
    #[must_use]
    pub fn manual_incident(
        &self,
        component: ComponentId,
        id: IncidentRef,
    ) -> Option<&ManualIncident> {
        self.manual_of(component).iter().find(|incident| IncidentRef::Existing(incident.id) == id)
    }

    /// Opens an incident for the update's component.
    pub(super) fn open(&mut self, update: Update<'_>, impact: Impact) -> IncidentRef {
        let id = IncidentRef::New(self.opened);
        self.opened += 1;
        let incident = SystemIncident {
            text: update.text.to_owned(),
            impact,
            start_date: update.at,
            end_date: None,
            components: BTreeSet::from([update.component]),
            has_others: false,
            last_update_at: None,
        };
        self.system.insert(id, incident);
        id
    }

    /// Adds a timeline entry, later than the incident's newest one even if that is ahead of the clock.
    pub(super) fn note(
        &mut self,
        id: IncidentRef,
        event: TimelineEvent,
        now: Timestamp,
        timeline: &mut Vec<TimelineEntry>,
    ) {
        let incident = self.incident(id);
        let at = incident.last_update_at.map_or(now, |last| now.max(last.plus_micros(1)));
        incident.last_update_at = Some(at);
        timeline.push(TimelineEntry { incident: id, at, event });
    }

    #[expect(clippy::expect_used, reason = "a decision has only incidents of `system`")]
    pub(super) fn incident(&mut self, id: IncidentRef) -> &mut SystemIncident {
        self.system
            .get_mut(&id)
            .expect("a decision has only incidents of the state on which it was made")
    }
}
