//! Applies a decision to the state, and returns its effect.

use shared::{component::ComponentId, impact::Impact, outcome::Reason, timestamp::Timestamp};

use super::{
    incident_ref::IncidentRef,
    rules::{Decision, decide},
    state::ActiveState,
    timeline::{TimelineEntry, TimelineEvent},
};

/// The incident that has or covers the component after its update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A system incident.
    System(IncidentRef),
    /// One of the component's manual incidents, by its index.
    Manual(usize),
}

/// The effect of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The rule that decided it.
    pub reason: Reason,
    /// The incident of the component now.
    pub holder: Holder,
    /// The new timeline entries, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

impl ActiveState {
    /// Decides one update and applies the decision to the state.
    ///
    /// `text` is the title of an incident that the update opens.
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

    /// Applies a decision that [`decide`] returned for this state and this update.
    pub fn carry_out(
        &mut self,
        decision: Decision,
        component: ComponentId,
        impact: Impact,
        text: &str,
        now: Timestamp,
    ) -> Effect {
        let mut timeline = Vec::new();
        let holder = match decision {
            Decision::Covered { by, .. } => Holder::Manual(by),
            Decision::CoveredBySystem(id) => Holder::System(id),
            Decision::Join(id) => {
                self.incident(id).components.insert(component);
                self.note(id, TimelineEvent::Added(component), now, &mut timeline);
                Holder::System(id)
            }
            Decision::Open => Holder::System(self.open(component, impact, text, now)),
            Decision::Move { from, to, closes } => {
                self.incident(to).components.insert(component);
                self.note(from, TimelineEvent::MovedTo(component, to), now, &mut timeline);
                if closes {
                    // It keeps the component, to show later whom it affected.
                    self.note(from, TimelineEvent::Closed, now, &mut timeline);
                    // An incident that starts in the future, because the clock was wrong at that time,
                    // ends at its start.
                    let incident = self.incident(from);
                    incident.end_date = Some(now.max(incident.start_date));
                } else {
                    self.incident(from).components.remove(&component);
                }
                self.note(to, TimelineEvent::MovedFrom(component, from), now, &mut timeline);
                if closes && let Some(closed) = self.system.remove(&from) {
                    self.closed.insert(from, closed);
                }
                Holder::System(to)
            }
            Decision::Raise(id) => {
                let incident = self.incident(id);
                let before = std::mem::replace(&mut incident.impact, impact);
                self.note(id, TimelineEvent::Raised(before, impact), now, &mut timeline);
                Holder::System(id)
            }
            Decision::MoveToNew { from } => {
                self.incident(from).components.remove(&component);
                let to = self.open(component, impact, text, now);
                self.note(from, TimelineEvent::MovedTo(component, to), now, &mut timeline);
                self.note(to, TimelineEvent::MovedFrom(component, from), now, &mut timeline);
                Holder::System(to)
            }
        };
        Effect { reason: decision.reason(), holder, timeline }
    }
}
