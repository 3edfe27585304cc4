//! The rules case by case. A row has what it shows, the state before, the update at [`now`], and the
//! result; a row without `leaves` and `writes` changes nothing.
//!
//! Incidents are written as `#1 minor: DNS CDN`, where `new0` is the first that a batch opens; timeline
//! entries as `#1 +0 DNS added`, with the microseconds after [`now`].

mod batches;
mod covered;
mod moved;

use std::collections::{BTreeMap, HashMap};

use shared::domain::{
    component::ComponentId,
    impact::Impact::{self, Maintenance, Major, Minor, Outage},
    incident::IncidentId,
    outcome::Reason::{self, *},
    timestamp::Timestamp,
};

use super::{apply, at};
use crate::domain::{
    ActiveState, IncidentRef, ManualIncident, SystemIncident, Update,
    timeline::{TimelineEntry, TimelineEvent},
};

const DNS: ComponentId = ComponentId(1);
const CDN: ComponentId = ComponentId(2);
const VPN: ComponentId = ComponentId(3);

/// The title in every update of a row; existing incidents have others.
const TEXT: &str = "Disk full";

/// An hour, for times far from any boundary.
const HOUR: i64 = 3_600_000_000;

fn now() -> Timestamp {
    at(0)
}

fn held_by(id: i32) -> IncidentRef {
    IncidentRef::Existing(IncidentId(id))
}

fn held_by_new(place: usize) -> IncidentRef {
    IncidentRef::New(place)
}

/// The state before an update.
struct Given {
    shows: &'static str,
    system: BTreeMap<IncidentRef, SystemIncident>,
    manual: HashMap<ComponentId, Vec<ManualIncident>>,
}

fn given(shows: &'static str) -> Given {
    Given { shows, system: BTreeMap::new(), manual: HashMap::new() }
}

impl Given {
    /// An active system incident, an hour old and with an empty timeline.
    fn system(mut self, id: i32, impact: Impact, components: &[ComponentId]) -> Self {
        let incident = SystemIncident {
            text: format!("system incident {id}"),
            impact,
            start_date: at(-HOUR),
            end_date: None,
            components: components.iter().copied().collect(),
            has_others: false,
            last_update_at: None,
        };
        self.system.insert(held_by(id), incident);
        self
    }

    /// The system incident has components of which the batch has no updates.
    fn with_others(mut self, id: i32) -> Self {
        self.system.get_mut(&held_by(id)).unwrap().has_others = true;
        self
    }

    /// The time of the system incident's newest timeline entry, in microseconds from now.
    fn last_updated(mut self, id: i32, micros: i64) -> Self {
        self.system.get_mut(&held_by(id)).unwrap().last_update_at = Some(at(micros));
        self
    }

    /// A manual incident of the component, with its start and end in microseconds from now.
    fn manual(
        mut self,
        id: i32,
        component: ComponentId,
        impact: Impact,
        start: i64,
        end: Option<i64>,
    ) -> Self {
        self.manual.entry(component).or_default().push(ManualIncident {
            id: IncidentId(id),
            text: format!("manual incident {id}"),
            impact,
            start_date: at(start),
            end_date: end.map(at),
            last_update_at: None,
        });
        self
    }

    /// A maintenance of the component, with its start and end in microseconds from now.
    fn maintenance(self, id: i32, component: ComponentId, start: i64, end: Option<i64>) -> Self {
        self.manual(id, component, Maintenance, start, end)
    }

    /// An update of the component with the impact, the rule that decides it, and the incident that then has
    /// or covers the component.
    fn update(
        self,
        component: ComponentId,
        impact: Impact,
        reason: Reason,
        holder: IncidentRef,
    ) -> Case {
        let Given { shows, system, manual } = self;
        let before = ActiveState::new(system, manual);
        let leaves = drawn_state(&before);
        Case { shows, before, component, impact, reason, holder, leaves, writes: Vec::new() }
    }
}

/// A row of a table.
struct Case {
    shows: &'static str,
    before: ActiveState,
    component: ComponentId,
    impact: Impact,
    reason: Reason,
    holder: IncidentRef,
    leaves: Vec<String>,
    writes: Vec<String>,
}

impl Case {
    /// The system incidents after the update, active ones first.
    fn leaves(mut self, incidents: &[&str]) -> Self {
        self.leaves = incidents.iter().map(ToString::to_string).collect();
        self
    }

    /// The new timeline entries.
    fn writes(mut self, entries: &[&str]) -> Self {
        self.writes = entries.iter().map(ToString::to_string).collect();
        self
    }

    fn check(&self) {
        let Self { shows, before, component, impact, .. } = self;
        let (mut after, mut timeline) = (before.clone(), Vec::new());
        let update = Update { component: *component, text: TEXT, at: now() };
        let (reason, holder) = apply(&mut after, update, *impact, &mut timeline);
        assert_eq!(reason, self.reason, "{shows}: the reason");
        assert_eq!(holder, self.holder, "{shows}: the holder");
        assert_eq!(drawn_state(&after), self.leaves, "{shows}: the incidents after it");
        let written: Vec<String> = timeline.iter().map(drawn_entry).collect();
        assert_eq!(written, self.writes, "{shows}: the entries");

        assert_eq!(after.manual, before.manual, "{shows}: manual incidents stay as they are");
        if !reason.outcome().is_change() {
            assert_eq!(after.system, before.system, "{shows}: nothing changed");
            assert_eq!(timeline, [], "{shows}: nothing to tell");
        }
        check_the_rest(shows, before, &after, &timeline);
    }
}

/// Checks what the rows omit: titles, times, and that the effect has only incidents of the state.
fn check_the_rest(
    shows: &str,
    before: &ActiveState,
    after: &ActiveState,
    history: &[TimelineEntry],
) {
    let mut opened = 0;
    for (id, incident) in after.system.iter().chain(&after.closed) {
        let closed = after.closed.contains_key(id);
        assert_eq!(incident.end_date, closed.then(now), "{shows}: the end of {id:?}");
        let last = history.iter().rfind(|entry| entry.incident == *id).map(|entry| entry.at);
        let (text, start, others, last_before) = match before.system.get(id) {
            Some(b) => (b.text.as_str(), b.start_date, b.has_others, b.last_update_at),
            None => {
                opened += 1;
                (TEXT, now(), false, None)
            }
        };
        assert_eq!(incident.text, text, "{shows}: the title of {id:?}");
        assert_eq!(incident.start_date, start, "{shows}: the start of {id:?}");
        assert_eq!(incident.has_others, others, "{shows}: the others of {id:?}");
        assert_eq!(incident.last_update_at, last.or(last_before), "{shows}: last of {id:?}");
    }
    assert_eq!(after.opened(), opened, "{shows}: the count of opened incidents");
    let kept = after.system.len() + after.closed.len();
    assert_eq!(kept, before.system.len() + opened, "{shows}: no incident gets lost");
}

fn drawn_state(state: &ActiveState) -> Vec<String> {
    let active = state.system.iter().map(|(id, incident)| drawn_incident("", *id, incident));
    let closed = state.closed.iter().map(|(id, incident)| drawn_incident("closed ", *id, incident));
    active.chain(closed).collect()
}

fn drawn_incident(closed: &str, id: IncidentRef, incident: &SystemIncident) -> String {
    let SystemIncident { impact, components, has_others, .. } = incident;
    let mut line = format!("{closed}{} {impact}:", drawn_ref(id));
    for component in components {
        line.push(' ');
        line.push_str(name(*component));
    }
    if components.is_empty() {
        line.push_str(" none");
    }
    if *has_others {
        line.push_str(" and others");
    }
    line
}

fn drawn_entry(entry: &TimelineEntry) -> String {
    let event = match entry.event {
        TimelineEvent::Added(component) => format!("{} added", name(component)),
        TimelineEvent::MovedTo(component, to) => {
            format!("{} moved to {}", name(component), drawn_ref(to))
        }
        TimelineEvent::MovedFrom(component, from) => {
            format!("{} moved from {}", name(component), drawn_ref(from))
        }
        TimelineEvent::Raised(from, to) => format!("raised from {from} to {to}"),
        TimelineEvent::Recovered(component) => format!("{} recovered", name(component)),
        TimelineEvent::Closed => "closed".to_owned(),
    };
    let offset = entry.at.as_micros() - now().as_micros();
    format!("{} {offset:+} {event}", drawn_ref(entry.incident))
}

fn drawn_ref(id: IncidentRef) -> String {
    match id {
        IncidentRef::Existing(id) => format!("#{id}"),
        IncidentRef::New(place) => format!("new{place}"),
    }
}

fn name(component: ComponentId) -> &'static str {
    match component {
        DNS => "DNS",
        CDN => "CDN",
        VPN => "VPN",
        ComponentId(_) => "another component",
    }
}

fn check_all<const N: usize>(cases: [Case; N]) {
    for case in cases {
        case.check();
    }
}
