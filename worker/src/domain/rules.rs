//! The five rules: which incident a status update belongs to.
//!
//! A pure function of the active state and an update. The rules have the numbers of `docs/concepts.md`, and
//! are implemented nowhere else.

use shared::outcome::Reason;

use super::{
    incident_ref::IncidentRef,
    state::{ActiveState, ManualIncident, Update},
};

/// The change that an update makes, before [`ActiveState::carry_out`] makes it.
///
/// It names incidents, which a [`Reason`] does not. Once it is carried out, its reason and the incident that
/// holds or covers the component are all that is recorded and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Rules 1 to 3: an incident or a maintenance covers it.
    Covered {
        /// That incident.
        by: IncidentRef,
        /// The rule.
        reason: Reason,
    },
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
            Self::Covered { .. } | Self::Open => RestsOn::NOTHING,
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

/// Decides one update.
#[must_use]
pub fn decide(state: &ActiveState, update: Update<'_>) -> Decision {
    let Update { component, impact, at, .. } = update;
    let manual = state.manual.get(&component).map_or(&[][..], Vec::as_slice);
    let covered = |by: &ManualIncident, reason| {
        let by = IncidentRef::Existing(by.id);
        Decision::Covered { by, reason }
    };
    if let Some(maintenance) = manual.iter().find(|m| m.is_running_maintenance(at)) {
        return covered(maintenance, Reason::InRunningMaintenance);
    }
    let covers = |m: &&ManualIncident| m.is_active_incident(at) && m.impact >= impact;
    if let Some(incident) = manual.iter().find(covers) {
        return covered(incident, Reason::CoveredByManualIncident);
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
        (Some((id, incident)), _) if incident.impact >= impact => {
            Decision::Covered { by: *id, reason: Reason::CoveredBySystemIncident }
        }
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
