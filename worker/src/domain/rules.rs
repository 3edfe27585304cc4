//! The five rules: which incident a status update belongs to.
//!
//! A pure function of the active state and an update. The rules have the numbers of `docs/concepts.md`, and
//! are implemented nowhere else.

use shared::{component::ComponentId, impact::Impact, outcome::Reason, timestamp::Timestamp};

use super::{
    incident_ref::IncidentRef,
    state::{ActiveState, ManualIncident},
};

/// What an update does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Rules 1 and 2: a manual incident or a maintenance covers it.
    Covered {
        /// The index of that incident among the component's manual incidents.
        by: usize,
        /// The rule.
        reason: Reason,
    },
    /// Rule 3: a system incident covers it.
    CoveredBySystem(IncidentRef),
    /// Rule 4: the component joins an incident.
    Join(IncidentRef),
    /// Rule 4: an incident is opened.
    Open,
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
    Raise(IncidentRef),
    /// Rule 5: the component moves to an incident that is opened for it.
    MoveToNew {
        /// The old incident.
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

    /// The part of the state on which the change depends; nothing for an update that changes nothing, or that
    /// opens an incident because there is none.
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

/// The part of the state on which a change depends: it must still hold when the change is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestsOn {
    /// This incident is active and has its impact.
    pub target: Option<IncidentRef>,
    /// So does this one, and it has the component.
    pub source: Option<IncidentRef>,
    /// The source also has other components.
    pub others_stay: bool,
}

impl RestsOn {
    const NOTHING: Self = Self { target: None, source: None, others_stay: false };
}

/// Decides one update: the component has the impact, at the given time.
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

    // Others may have put the component into several: the worst counts, and of equally bad ones the
    // oldest.
    let current = state
        .system
        .iter()
        .filter(|(_, incident)| incident.components.contains(&component))
        .max_by_key(|(id, incident)| (incident.impact, std::cmp::Reverse(**id)));
    // There may also be several of one impact: the oldest counts.
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
