//! Carries out decisions: changes the state, and notes what happened in the timelines of its incidents.

use shared::timestamp::Timestamp;

use super::{
    incident_ref::IncidentRef,
    rules::Decision,
    state::{ActiveState, Update},
    timeline::{TimelineEntry, TimelineEvent},
};

impl ActiveState {
    /// Applies a decision that [`decide`](super::decide) returned for this state and this update. Adds what
    /// happened to `timeline`, oldest first; returns the incident that now holds or covers the component.
    pub fn carry_out(
        &mut self,
        decision: Decision,
        update: Update<'_>,
        timeline: &mut Vec<TimelineEntry>,
    ) -> IncidentRef {
        let Update { component, impact, at, .. } = update;
        match decision {
            Decision::Covered { by, .. } => by,
            Decision::Join(incident) => {
                self.incident(incident).components.insert(component);
                self.note(incident, TimelineEvent::Added(component), at, timeline);
                incident
            }
            Decision::Open => self.open(update),
            Decision::Move { from, to, closes } => {
                self.incident(to).components.insert(component);
                self.note(from, TimelineEvent::MovedTo(component, to), at, timeline);
                if closes {
                    self.close(from, at, timeline);
                } else {
                    self.incident(from).components.remove(&component);
                }
                self.note(to, TimelineEvent::MovedFrom(component, from), at, timeline);
                to
            }
            Decision::Raise(incident) => {
                let before = std::mem::replace(&mut self.incident(incident).impact, impact);
                self.note(incident, TimelineEvent::Raised(before, impact), at, timeline);
                incident
            }
            Decision::MoveToNew { from } => {
                self.incident(from).components.remove(&component);
                let to = self.open(update);
                self.note(from, TimelineEvent::MovedTo(component, to), at, timeline);
                self.note(to, TimelineEvent::MovedFrom(component, from), at, timeline);
                to
            }
        }
    }

    /// Closes an incident. It keeps its components, to show later whom it affected.
    fn close(&mut self, id: IncidentRef, at: Timestamp, timeline: &mut Vec<TimelineEntry>) {
        self.note(id, TimelineEvent::Closed, at, timeline);
        if let Some(mut incident) = self.system.remove(&id) {
            // An incident that starts in the future, because the clock was wrong at that time, ends at its
            // start.
            incident.end_date = Some(at.max(incident.start_date));
            self.closed.insert(id, incident);
        }
    }
}
