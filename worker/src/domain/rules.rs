//! The five rules: which incident a status update belongs to. And recovery: which ones a component leaves.
//!
//! Pure functions of the active state and an update. The rules have the numbers of `docs/concepts.md`, and
//! are implemented nowhere else.

use std::cmp::Reverse;

use shared::domain::{
    component::ComponentId, impact::Impact, outcome::Reason, timestamp::Timestamp,
};

use super::{
    incident_ref::IncidentRef,
    state::{ActiveState, ManualIncident, SystemIncident, Update},
};

/// The change that an update makes, before [`ActiveState::carry_out`] makes it.
///
/// It names incidents, which a [`Reason`] does not. Once it is carried out, its reason and the incident that
/// holds or covers the component are all that is recorded and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Rules 1 to 3, or an `ok` or a late update that changes nothing.
    Unchanged {
        /// The incident or the maintenance that covers the component; by rules 1 to 3 there is one.
        covered_by: Option<IncidentRef>,
        /// The rule.
        reason: Reason,
    },
    /// Rule 4: the component joins an incident.
    Join(IncidentRef),
    /// Rule 4: an incident of this impact is opened.
    Open(Impact),
    /// Rule 5: the component moves to an active incident.
    Move {
        /// The old incident.
        from: IncidentRef,
        /// The new incident.
        to: IncidentRef,
        /// Whether it was the only component of the old incident, which is then closed.
        closes: bool,
    },
    /// Rule 5: the incident's impact is raised.
    Raise {
        /// The incident.
        incident: IncidentRef,
        /// Its new impact.
        to: Impact,
    },
    /// Rule 5: the component moves to an incident that is opened for it.
    MoveToNew {
        /// The old incident.
        from: IncidentRef,
        /// The impact of the new one.
        impact: Impact,
    },
    /// `ok`: the component leaves its active system incidents.
    Recover {
        /// The worst of them, and of equally bad ones the oldest.
        first: Leaving,
        /// The others, which only other writers can have put it into.
        others: Vec<Leaving>,
    },
}

/// An incident that a component leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The incident.
    pub from: IncidentRef,
    /// Whether it has no other component, and is closed.
    pub closes: bool,
}

impl Decision {
    /// The rule that led to it.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Unchanged { reason, .. } => *reason,
            Self::Join(_) => Reason::JoinedIncidentOfImpact,
            Self::Open(_) => Reason::NoIncidentOfImpact,
            Self::Move { closes: false, .. } => Reason::MovedToIncidentOfImpact,
            Self::Move { closes: true, .. } => Reason::MovedAsOnlyComponent,
            Self::Raise { .. } => Reason::RaisedAsOnlyComponent,
            Self::MoveToNew { .. } => Reason::MovedToNewIncident,
            Self::Recover { first: Leaving { closes: false, .. }, .. } => {
                Reason::RecoveredAmongOthers
            }
            Self::Recover { first: Leaving { closes: true, .. }, .. } => {
                Reason::RecoveredAsOnlyComponent
            }
        }
    }

    /// Whether it changes an incident.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        !matches!(self, Self::Unchanged { .. })
    }

    /// The part of the state on which the change depends; nothing for an update that changes nothing, or that
    /// opens an incident because there is none.
    #[must_use]
    pub fn rests_on(&self) -> RestsOn {
        let on = |target, sources| RestsOn { target, sources };
        let source = |from, others_stay| vec![SourceIncident { from, others_stay }];
        match self {
            Self::Unchanged { .. } | Self::Open(_) => RestsOn::default(),
            Self::Join(to) => on(Some(*to), Vec::new()),
            Self::Move { from, to, closes } => on(Some(*to), source(*from, !closes)),
            Self::Raise { incident, .. } => on(None, source(*incident, false)),
            Self::MoveToNew { from, .. } => on(None, source(*from, true)),
            Self::Recover { first, others } => {
                let left = std::iter::once(first).chain(others);
                let source =
                    |left: &Leaving| SourceIncident { from: left.from, others_stay: !left.closes };
                on(None, left.map(source).collect())
            }
        }
    }
}

/// The part of the state on which a change depends: it must still hold when the change is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestsOn {
    /// This incident is active and has its impact.
    pub target: Option<IncidentRef>,
    /// So are these, and each has the component.
    pub sources: Vec<SourceIncident>,
}

/// An incident from which a component is taken, or whose impact is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceIncident {
    /// The incident.
    pub from: IncidentRef,
    /// Whether the change depends on that it also has other components.
    pub others_stay: bool,
}

/// Decides an update that reports an impact.
#[must_use]
pub fn decide(state: &ActiveState, update: Update<'_>, impact: Impact) -> Decision {
    let Update { component, at, .. } = update;
    let manual = state.manual_of(component);
    let covered = |by: &ManualIncident, reason| {
        let covered_by = Some(IncidentRef::Existing(by.id));
        Decision::Unchanged { covered_by, reason }
    };
    if let Some(maintenance) = manual.iter().find(|m| is_running_maintenance(m, at)) {
        return covered(maintenance, Reason::InRunningMaintenance);
    }
    let covers = |m: &&ManualIncident| is_active_incident(m, at) && m.impact >= impact;
    if let Some(incident) = manual.iter().find(covers) {
        return covered(incident, Reason::CoveredByManualIncident);
    }

    // Others may have put the component into several.
    let current = worst_incident_of(state, component);
    // There may also be several of one impact: the oldest counts.
    let target = state.system.iter().find(|(_, i)| i.impact == impact).map(|(id, _)| *id);

    match (current, target) {
        (Some((id, incident)), _) if incident.impact >= impact => {
            let reason = Reason::CoveredBySystemIncident;
            Decision::Unchanged { covered_by: Some(*id), reason }
        }
        (None, Some(target)) => Decision::Join(target),
        (None, None) => Decision::Open(impact),
        (Some((from, incident)), target) => {
            let only = incident.has_one_component();
            match target {
                Some(to) => Decision::Move { from: *from, to, closes: only },
                None if only => Decision::Raise { incident: *from, to: impact },
                None => Decision::MoveToNew { from: *from, impact },
            }
        }
    }
}

/// Decides an `ok` after which no report of the component stands.
#[must_use]
pub(super) fn recover(state: &ActiveState, update: Update<'_>) -> Decision {
    let mut incidents: Vec<_> = incidents_of(state, update.component).collect();
    incidents.sort_by_key(|(id, incident)| (Reverse(incident.impact), **id));
    let mut left = incidents
        .into_iter()
        .map(|(id, incident)| Leaving { from: *id, closes: incident.has_one_component() });
    match left.next() {
        Some(first) => Decision::Recover { first, others: left.collect() },
        None => unchanged(state, update, Reason::InNoSystemIncident),
    }
}

/// The decision for an update that changes nothing for this reason: with what covers the component, in the order
/// of the rules and of any impact.
#[must_use]
pub(super) fn unchanged(state: &ActiveState, update: Update<'_>, reason: Reason) -> Decision {
    let Update { component, at, .. } = update;
    let manual = state.manual_of(component);
    let covering = manual
        .iter()
        .find(|m| is_running_maintenance(m, at))
        .or_else(|| manual.iter().find(|m| is_active_incident(m, at)))
        .map(|m| IncidentRef::Existing(m.id));
    let covered_by = covering.or_else(|| Some(*worst_incident_of(state, component)?.0));
    Decision::Unchanged { covered_by, reason }
}

fn is_running_maintenance(incident: &ManualIncident, now: Timestamp) -> bool {
    incident.impact == Impact::Maintenance
        && incident.start_date <= now
        && incident.end_date.is_none_or(|end| end > now)
}

fn is_active_incident(incident: &ManualIncident, now: Timestamp) -> bool {
    incident.impact != Impact::Maintenance
        && incident.start_date <= now
        && incident.end_date.is_none()
}

/// The active system incidents of a component.
fn incidents_of(
    state: &ActiveState,
    component: ComponentId,
) -> impl Iterator<Item = (&IncidentRef, &SystemIncident)> {
    state.system.iter().filter(move |(_, incident)| incident.components.contains(&component))
}

/// The worst of them, and of equally bad ones the oldest.
fn worst_incident_of(
    state: &ActiveState,
    component: ComponentId,
) -> Option<(&IncidentRef, &SystemIncident)> {
    incidents_of(state, component).max_by_key(|(id, incident)| (incident.impact, Reverse(**id)))
}
