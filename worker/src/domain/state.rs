//! The active incidents, as far as the components of a batch go: what the rules look at, and what a batch
//! changes step by step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp};

use super::{
    incident_ref::IncidentRef,
    timeline::{TimelineEntry, TimelineEvent},
};

/// An active incident that the system opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIncident {
    /// Its title.
    pub text: String,
    /// Its impact, never `Maintenance`.
    pub impact: Impact,
    /// Its start.
    pub start_date: Timestamp,
    /// Its end: only an incident that the batch closed has one.
    pub end_date: Option<Timestamp>,
    /// Those of its components that the batch has updates of.
    pub components: BTreeSet<ComponentId>,
    /// Whether it has components beside those.
    pub has_others: bool,
    /// The time of its newest update.
    pub last_update_at: Option<Timestamp>,
}

/// An incident or maintenance that a person opened, as far as it can cover a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualIncident {
    /// Its id.
    pub id: IncidentId,
    /// Its title.
    pub text: String,
    /// Its impact; `Maintenance` makes it a maintenance.
    pub impact: Impact,
    /// Its start, possibly to come.
    pub start_date: Timestamp,
    /// Its end, possibly to come.
    pub end_date: Option<Timestamp>,
    /// The time of its newest update.
    pub last_update_at: Option<Timestamp>,
}

impl ManualIncident {
    /// Whether it is a maintenance that runs at that time.
    pub(super) fn is_running_maintenance(&self, now: Timestamp) -> bool {
        self.impact == Impact::Maintenance
            && self.start_date <= now
            && self.end_date.is_none_or(|end| end > now)
    }

    /// Whether it is an active incident at that time.
    pub(super) fn is_active_incident(&self, now: Timestamp) -> bool {
        self.impact != Impact::Maintenance && self.start_date <= now && self.end_date.is_none()
    }
}

/// What the decision looks at: the active incidents, as far as the components of a batch go.
#[derive(Clone, Debug, Default)]
pub struct ActiveState {
    /// Active system incidents. Those that the batch closes move to `closed`.
    pub system: BTreeMap<IncidentRef, SystemIncident>,
    /// Manual incidents and maintenances by component, in order of their ids ([`Self::new`]).
    pub manual: HashMap<ComponentId, Vec<ManualIncident>>,
    /// What the batch closed.
    pub closed: BTreeMap<IncidentRef, SystemIncident>,
    /// How many incidents the batch has opened.
    opened: usize,
}

impl ActiveState {
    /// The state as a batch finds it.
    #[must_use]
    pub fn new(
        system: BTreeMap<IncidentRef, SystemIncident>,
        mut manual: HashMap<ComponentId, Vec<ManualIncident>>,
    ) -> Self {
        // Of several that cover a component, the one with the lowest id is named.
        manual.values_mut().for_each(|incidents| incidents.sort_by_key(|incident| incident.id));
        Self { system, manual, ..Self::default() }
    }

    /// How many incidents the batch has opened: `New(0)` to `New(opened - 1)`.
    #[must_use]
    pub const fn opened(&self) -> usize {
        self.opened
    }

    /// An incident of the system that is active or that the batch closed.
    #[must_use]
    pub fn any_incident(&self, id: IncidentRef) -> Option<&SystemIncident> {
        self.system.get(&id).or_else(|| self.closed.get(&id))
    }

    pub(super) fn open(
        &mut self,
        component: ComponentId,
        impact: Impact,
        text: &str,
        now: Timestamp,
    ) -> IncidentRef {
        let id = IncidentRef::New(self.opened);
        self.opened += 1;
        let incident = SystemIncident {
            text: text.to_owned(),
            impact,
            start_date: now,
            end_date: None,
            components: BTreeSet::from([component]),
            has_others: false,
            last_update_at: None,
        };
        self.system.insert(id, incident);
        id
    }

    /// Adds an entry, later than the incident's last one even if that lies ahead of the clock.
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

    #[expect(clippy::expect_used, reason = "decide names only incidents that it found in `system`")]
    pub(super) fn incident(&mut self, id: IncidentRef) -> &mut SystemIncident {
        self.system.get_mut(&id).expect("a decision names incidents of the state it looked at")
    }
}
