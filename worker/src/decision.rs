//! The decision: which incident a status update belongs to, and what that changes.
//!
//! Pure and synchronous: the active state and an update go in, what follows comes out. The rules
//! are those of the contract ("What an update does"), numbered as there, and stand nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{
    component::ComponentId, impact::Impact, incident::IncidentId, outcome::Reason,
    timestamp::Timestamp,
};

/// Names an incident within a batch: one that stands in the database, or one that the batch opens
/// and that has no id before the batch is written. Older ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IncidentRef {
    /// It stands in the database.
    Standing(IncidentId),
    /// The batch opens it, as its so many-th, from 0.
    New(usize),
}

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
    fn is_running_maintenance(&self, now: Timestamp) -> bool {
        self.impact == Impact::Maintenance
            && self.start_date <= now
            && self.end_date.is_none_or(|end| end > now)
    }

    /// Whether it is an active incident at that time.
    fn is_active_incident(&self, now: Timestamp) -> bool {
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

/// What an update leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Rules 1 and 2: a person's incident or maintenance covers it.
    Covered {
        /// Which of the component's manual incidents, by place.
        by: usize,
        /// Which rule.
        reason: Reason,
    },
    /// Rule 3: an incident of the system covers it.
    CoveredBySystem(IncidentRef),
    /// Rule 4: the component joins an incident.
    Join(IncidentRef),
    /// Rule 4: an incident is opened.
    Open,
    /// Rule 5: the component moves to an incident that stands.
    Move {
        /// Where it was.
        from: IncidentRef,
        /// Where it goes.
        to: IncidentRef,
        /// Whether it was the only component there, so that the old incident closes.
        closes: bool,
    },
    /// Rule 5: the incident's impact is raised.
    Raise(IncidentRef),
    /// Rule 5: the component moves to an incident that is opened for it.
    MoveToNew {
        /// Where it was.
        from: IncidentRef,
    },
}

impl Decision {
    /// The rule that led to it.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Covered { reason, .. } => *reason,
            Self::CoveredBySystem(_) => Reason::CoveredBySystemIncident,
            Self::Join(_) => Reason::JoinedIncidentOfImpact,
            Self::Open => Reason::NoIncidentOfImpact,
            Self::Move { closes: false, .. } => Reason::MovedToIncidentOfImpact,
            Self::Move { closes: true, .. } => Reason::MovedAsOnlyComponent,
            Self::Raise(_) => Reason::RaisedAsOnlyComponent,
            Self::MoveToNew { .. } => Reason::MovedToNewIncident,
        }
    }

    /// What of the state the change rests on; nothing for an update that changes nothing, and for one
    /// that opens an incident because there is none.
    #[must_use]
    pub const fn rests_on(&self) -> RestsOn {
        match *self {
            Self::Covered { .. } | Self::CoveredBySystem(_) | Self::Open => RestsOn::NOTHING,
            Self::Join(to) => RestsOn { target: Some(to), ..RestsOn::NOTHING },
            Self::Move { from, to, closes } => {
                RestsOn { target: Some(to), source: Some(from), others_stay: !closes }
            }
            Self::Raise(incident) => RestsOn { source: Some(incident), ..RestsOn::NOTHING },
            Self::MoveToNew { from } => {
                RestsOn { source: Some(from), others_stay: true, ..RestsOn::NOTHING }
            }
        }
    }
}

/// What of the state a change rests on: it must still be so when the change is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestsOn {
    /// An incident is active, with its impact.
    pub target: Option<IncidentRef>,
    /// So is this one, and it has the component.
    pub source: Option<IncidentRef>,
    /// The source has other components, too.
    pub others_stay: bool,
}

impl RestsOn {
    const NOTHING: Self = Self { target: None, source: None, others_stay: false };
}

/// Decides one update: this component shows this impact, at this time.
#[must_use]
pub fn decide(
    state: &ActiveState,
    component: ComponentId,
    impact: Impact,
    now: Timestamp,
) -> Decision {
    let manual = state.manual.get(&component).map_or(&[][..], Vec::as_slice);
    if let Some(by) = manual.iter().position(|m| m.is_running_maintenance(now)) {
        return Decision::Covered { by, reason: Reason::InRunningMaintenance };
    }
    let covers = |m: &ManualIncident| m.is_active_incident(now) && m.impact >= impact;
    if let Some(by) = manual.iter().position(covers) {
        return Decision::Covered { by, reason: Reason::CoveredByManualIncident };
    }

    // A database that others write to may have a component in several: the worst counts, and of
    // equal ones the oldest.
    let current = state
        .system
        .iter()
        .filter(|(_, incident)| incident.components.contains(&component))
        .max_by_key(|(id, incident)| (incident.impact, std::cmp::Reverse(**id)));
    // It may have several of one impact, too: the oldest counts.
    let target = state.system.iter().find(|(_, i)| i.impact == impact).map(|(id, _)| *id);

    match (current, target) {
        (Some((id, incident)), _) if incident.impact >= impact => Decision::CoveredBySystem(*id),
        (None, Some(target)) => Decision::Join(target),
        (None, None) => Decision::Open,
        (Some((from, incident)), target) => {
            let only = incident.components.len() == 1 && !incident.has_others;
            match target {
                Some(to) => Decision::Move { from: *from, to, closes: only },
                None if only => Decision::Raise(*from),
                None => Decision::MoveToNew { from: *from },
            }
        }
    }
}

/// What is written into the updates of an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Whose updates.
    pub incident: IncidentRef,
    /// When; an incident's entries have strictly increasing times.
    pub at: Timestamp,
    /// What happened.
    pub event: HistoryEvent,
}

/// What happened to an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryEvent {
    /// The component joined it.
    Added(ComponentId),
    /// The component left it for another.
    MovedTo(ComponentId, IncidentRef),
    /// The component came from another.
    MovedFrom(ComponentId, IncidentRef),
    /// Its impact was raised.
    Raised(Impact, Impact),
    /// The system closed it.
    Closed,
}

/// Which incident holds or covers the component after its update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One of the system's.
    System(IncidentRef),
    /// One of the component's manual incidents, by place.
    Manual(usize),
}

/// What an update led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The rule that decided it.
    pub reason: Reason,
    /// Where the component is now.
    pub holder: Holder,
    /// What goes into the incidents' updates, oldest first.
    pub history: Vec<HistoryEntry>,
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

    /// Decides one update and takes the decision into the state.
    ///
    /// `text` is the title of an incident that it opens.
    pub fn apply(
        &mut self,
        component: ComponentId,
        impact: Impact,
        text: &str,
        now: Timestamp,
    ) -> Effect {
        let decision = decide(self, component, impact, now);
        self.carry_out(decision, component, impact, text, now)
    }

    /// Takes a decision, which [`decide`] made of this state for this update, into the state.
    pub fn carry_out(
        &mut self,
        decision: Decision,
        component: ComponentId,
        impact: Impact,
        text: &str,
        now: Timestamp,
    ) -> Effect {
        let mut history = Vec::new();
        let holder = match decision {
            Decision::Covered { by, .. } => Holder::Manual(by),
            Decision::CoveredBySystem(id) => Holder::System(id),
            Decision::Join(id) => {
                self.incident(id).components.insert(component);
                self.note(id, HistoryEvent::Added(component), now, &mut history);
                Holder::System(id)
            }
            Decision::Open => Holder::System(self.open(component, impact, text, now)),
            Decision::Move { from, to, closes } => {
                self.incident(to).components.insert(component);
                self.note(from, HistoryEvent::MovedTo(component, to), now, &mut history);
                if closes {
                    // It keeps the component as its history.
                    self.note(from, HistoryEvent::Closed, now, &mut history);
                    // An incident that begins in the future, since the clock was wrong then, ends
                    // when it begins.
                    let incident = self.incident(from);
                    incident.end_date = Some(now.max(incident.start_date));
                } else {
                    self.incident(from).components.remove(&component);
                }
                self.note(to, HistoryEvent::MovedFrom(component, from), now, &mut history);
                if closes && let Some(closed) = self.system.remove(&from) {
                    self.closed.insert(from, closed);
                }
                Holder::System(to)
            }
            Decision::Raise(id) => {
                let incident = self.incident(id);
                let before = std::mem::replace(&mut incident.impact, impact);
                self.note(id, HistoryEvent::Raised(before, impact), now, &mut history);
                Holder::System(id)
            }
            Decision::MoveToNew { from } => {
                self.incident(from).components.remove(&component);
                let to = self.open(component, impact, text, now);
                self.note(from, HistoryEvent::MovedTo(component, to), now, &mut history);
                self.note(to, HistoryEvent::MovedFrom(component, from), now, &mut history);
                Holder::System(to)
            }
        };
        Effect { reason: decision.reason(), holder, history }
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

    fn open(
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
    fn note(
        &mut self,
        id: IncidentRef,
        event: HistoryEvent,
        now: Timestamp,
        history: &mut Vec<HistoryEntry>,
    ) {
        let incident = self.incident(id);
        let at = incident.last_update_at.map_or(now, |last| now.max(last.plus_micros(1)));
        incident.last_update_at = Some(at);
        history.push(HistoryEntry { incident: id, at, event });
    }

    #[expect(clippy::expect_used, reason = "decide names only incidents that it found in `system`")]
    fn incident(&mut self, id: IncidentRef) -> &mut SystemIncident {
        self.system.get_mut(&id).expect("a decision names incidents of the state it looked at")
    }
}

#[cfg(test)]
mod tests;
