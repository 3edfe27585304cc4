//! Carries out decisions: changes the state, and notes what happened in the timelines of its incidents.

use shared::domain::{component::ComponentId, timestamp::Timestamp};

use super::{
    incident_ref::IncidentRef,
    rules::{Decision, Leaving},
    state::{ActiveState, Update},
    timeline::{TimelineEntry, TimelineEvent},
};

impl ActiveState {
    /// Applies a decision that was made on this state for this update. Adds what happened to `timeline`, oldest first;
    /// returns the incident that now holds or covers the component.
    pub fn carry_out(
        &mut self,
        decision: &Decision,
        update: Update<'_>,
        timeline: &mut Vec<TimelineEntry>,
    ) -> Option<IncidentRef> {
        let Update { component, at, .. } = update;
        Some(match *decision {
            Decision::Unchanged { covered_by, .. } => return covered_by,
            Decision::Join(incident) => {
                self.incident(incident).components.insert(component);
                self.note(incident, TimelineEvent::Added(component), at, timeline);
                incident
            }
            Decision::Open(impact) => self.open(update, impact),
            Decision::Move { from, to, closes } => {
                self.incident(to).components.insert(component);
                self.note(from, TimelineEvent::MovedTo(component, to), at, timeline);
                self.remove(component, Leaving { from, closes }, at, timeline);
                self.note(to, TimelineEvent::MovedFrom(component, from), at, timeline);
                to
            }
            Decision::Raise { incident, to } => {
                let before = std::mem::replace(&mut self.incident(incident).impact, to);
                self.note(incident, TimelineEvent::Raised(before, to), at, timeline);
                incident
            }
            Decision::MoveToNew { from, impact } => {
                self.incident(from).components.remove(&component);
                let to = self.open(update, impact);
                self.note(from, TimelineEvent::MovedTo(component, to), at, timeline);
                self.note(to, TimelineEvent::MovedFrom(component, from), at, timeline);
                to
            }
            Decision::Recover { first, ref others } => {
                for left in std::iter::once(&first).chain(others) {
                    self.note(left.from, TimelineEvent::Recovered(component), at, timeline);
                    self.remove(component, *left, at, timeline);
                }
                first.from
            }
        })
    }

    /// Takes a component out of an incident, or closes the incident, which then keeps it.
    fn remove(
        &mut self,
        component: ComponentId,
        Leaving { from, closes }: Leaving,
        at: Timestamp,
        timeline: &mut Vec<TimelineEntry>,
    ) {
        if closes {
            self.close(from, at, timeline);
        } else {
            self.incident(from).components.remove(&component);
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
