//! The rules case by case. A row has what it shows, the state before, the update at [`now`], and the
//! result; a row without `leaves` and `writes` changes nothing.
//!
//! Incidents are written as `#1 minor: DNS CDN`, where `new0` is the first that a batch opens; timeline
//! entries as `#1 +0 DNS added`, with the microseconds after [`now`].

use std::collections::{BTreeMap, HashMap};

use shared::{
    component::ComponentId,
    impact::Impact::{self, Maintenance, Major, Minor, Outage},
    incident::IncidentId,
    outcome::Reason::{self, *},
    timestamp::Timestamp,
};

use super::at;
use crate::domain::{
    ActiveState,
    Holder::{self, Manual},
    IncidentRef, ManualIncident, SystemIncident, decide,
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

fn standing(id: i32) -> IncidentRef {
    IncidentRef::Existing(IncidentId(id))
}

fn held_by(id: i32) -> Holder {
    Holder::System(standing(id))
}

fn held_by_new(place: usize) -> Holder {
    Holder::System(IncidentRef::New(place))
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
        self.system.insert(standing(id), incident);
        self
    }

    /// The system incident has components of which the batch has no updates.
    fn with_others(mut self, id: i32) -> Self {
        self.system.get_mut(&standing(id)).unwrap().has_others = true;
        self
    }

    /// The time of the system incident's newest timeline entry, in microseconds from now.
    fn last_updated(mut self, id: i32, micros: i64) -> Self {
        self.system.get_mut(&standing(id)).unwrap().last_update_at = Some(at(micros));
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
        holder: Holder,
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
    holder: Holder,
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
        let decision = decide(before, *component, *impact, now());
        assert_eq!(decision.reason(), self.reason, "{shows}: the decision's reason");

        let mut after = before.clone();
        let effect = after.apply(*component, *impact, TEXT, now());
        assert_eq!(effect.reason, self.reason, "{shows}: the reason");
        assert_eq!(effect.holder, self.holder, "{shows}: the holder");
        assert_eq!(drawn_state(&after), self.leaves, "{shows}: the incidents after it");
        let written: Vec<String> = effect.timeline.iter().map(drawn_entry).collect();
        assert_eq!(written, self.writes, "{shows}: the entries");

        assert_eq!(after.manual, before.manual, "{shows}: manual incidents stay as they are");
        if !effect.reason.outcome().is_change() {
            assert_eq!(after.system, before.system, "{shows}: nothing changed");
            assert_eq!(effect.timeline, [], "{shows}: nothing to tell");
        }
        check_the_rest(shows, before, &after, &effect.timeline);
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

#[test]
fn a_running_maintenance_suppresses_updates() {
    check_all([
        given("a maintenance that started and is to end covers whatever is reported")
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .update(DNS, Outage, InRunningMaintenance, Manual(0)),
        given("one without an end covers").maintenance(5, DNS, -HOUR, None).update(
            DNS,
            Minor,
            InRunningMaintenance,
            Manual(0),
        ),
        given("it runs from its very start").maintenance(5, DNS, 0, Some(HOUR)).update(
            DNS,
            Minor,
            InRunningMaintenance,
            Manual(0),
        ),
        given("it does not run a microsecond before its start")
            .maintenance(5, DNS, 1, Some(HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("it still runs a microsecond before its end")
            .maintenance(5, DNS, -HOUR, Some(1))
            .update(DNS, Minor, InRunningMaintenance, Manual(0)),
        given("it no longer runs at its very end")
            .maintenance(5, DNS, -HOUR, Some(0))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("one that ends as it starts never runs")
            .maintenance(5, DNS, 0, Some(0))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("one to come does not cover")
            .maintenance(5, DNS, HOUR, Some(2 * HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("an endless one to come does not cover either, as maintenance or as manual incident")
            .maintenance(5, DNS, HOUR, None)
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("one that ended does not cover")
            .maintenance(5, DNS, -2 * HOUR, Some(-HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("any of several counts, not only the first")
            .maintenance(5, DNS, -2 * HOUR, Some(-HOUR))
            .maintenance(6, DNS, -HOUR, Some(HOUR))
            .update(DNS, Outage, InRunningMaintenance, Manual(1)),
        given("of two that run, the oldest is named")
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .maintenance(6, DNS, -HOUR, None)
            .update(DNS, Outage, InRunningMaintenance, Manual(0)),
        given("that of another component covers only that one")
            .maintenance(5, CDN, -HOUR, Some(HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("it comes before an older manual incident that covers the component, too")
            .manual(5, DNS, Outage, -HOUR, None)
            .maintenance(6, DNS, -HOUR, Some(HOUR))
            .update(DNS, Minor, InRunningMaintenance, Manual(1)),
        given("it comes before a system incident that covers the component, too")
            .system(1, Outage, &[DNS])
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .update(DNS, Minor, InRunningMaintenance, Manual(0)),
        given("it keeps a system incident of the component from being raised")
            .system(1, Minor, &[DNS])
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .update(DNS, Outage, InRunningMaintenance, Manual(0)),
    ]);
}

#[test]
fn a_manual_incident_covers_its_impact_and_those_below() {
    check_all([
        given("one of higher impact covers").manual(5, DNS, Outage, -HOUR, None).update(
            DNS,
            Minor,
            CoveredByManualIncident,
            Manual(0),
        ),
        given("one of the same impact covers").manual(5, DNS, Major, -HOUR, None).update(
            DNS,
            Major,
            CoveredByManualIncident,
            Manual(0),
        ),
        given("it counts from its very start").manual(5, DNS, Major, 0, None).update(
            DNS,
            Major,
            CoveredByManualIncident,
            Manual(0),
        ),
        given("it does not count a microsecond before its start")
            .manual(5, DNS, Major, 1, None)
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
        given("one that ended does not count")
            .manual(5, DNS, Outage, -2 * HOUR, Some(-HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("unlike a maintenance, one with an end to come does not count")
            .manual(5, DNS, Outage, -HOUR, Some(HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("that of another component covers only that one")
            .manual(5, CDN, Outage, -HOUR, None)
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("any of several counts, not only the first")
            .manual(5, DNS, Minor, -HOUR, None)
            .manual(6, DNS, Outage, -HOUR, None)
            .update(DNS, Major, CoveredByManualIncident, Manual(1)),
        given("of two that cover, the oldest is named, not the worst")
            .manual(5, DNS, Major, -HOUR, None)
            .manual(6, DNS, Outage, -HOUR, None)
            .update(DNS, Minor, CoveredByManualIncident, Manual(0)),
        given("a maintenance to come keeps its place in the count")
            .maintenance(5, DNS, HOUR, Some(2 * HOUR))
            .manual(6, DNS, Minor, -HOUR, None)
            .update(DNS, Minor, CoveredByManualIncident, Manual(1)),
        given("it comes before a system incident that covers the component, too")
            .system(1, Outage, &[DNS])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Minor, CoveredByManualIncident, Manual(0)),
        given("it keeps a system incident of the component from being raised")
            .system(1, Minor, &[DNS])
            .manual(5, DNS, Major, -HOUR, None)
            .update(DNS, Major, CoveredByManualIncident, Manual(0)),
    ]);
}

#[test]
fn an_update_above_a_manual_incident_follows_the_other_rules_beside_it() {
    check_all([
        given("by rule 4 an incident is opened beside it")
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
        given("by rule 4 the component joins another incident beside it")
            .system(1, Major, &[CDN])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 major: DNS CDN"])
            .writes(&["#1 +0 DNS added"]),
        given("by rule 3 a system incident beside it covers")
            .system(1, Major, &[DNS])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, CoveredBySystemIncident, held_by(1)),
        given("by rule 5 a system incident beside it is raised, and the manual one is not")
            .system(1, Minor, &[DNS])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS"])
            .writes(&["#1 +0 raised from minor to outage"]),
        given("by rule 5 the component moves beside it")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Outage, &[VPN])
            .manual(5, DNS, Major, -HOUR, None)
            .update(DNS, Outage, MovedToIncidentOfImpact, held_by(2))
            .leaves(&["#1 minor: CDN", "#2 outage: DNS VPN"])
            .writes(&["#1 +0 DNS moved to #2", "#2 +0 DNS moved from #1"]),
        given("by rule 5 the component moves to a new incident beside it")
            .system(1, Minor, &[DNS, CDN])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: CDN", "new0 major: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("nobody joins a manual incident: another component opens one of the same impact")
            .manual(5, CDN, Major, -HOUR, None)
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
    ]);
}

#[test]
fn a_system_incident_covers_its_impact_and_those_below() {
    check_all([
        given("one of the same impact covers").system(1, Major, &[DNS]).update(
            DNS,
            Major,
            CoveredBySystemIncident,
            held_by(1),
        ),
        given("one of higher impact covers, and does not fall").system(1, Outage, &[DNS]).update(
            DNS,
            Minor,
            CoveredBySystemIncident,
            held_by(1),
        ),
        given("it covers even where another incident has exactly the impact")
            .system(1, Outage, &[DNS])
            .system(2, Minor, &[CDN])
            .update(DNS, Minor, CoveredBySystemIncident, held_by(1)),
        given("it covers each of its components")
            .system(1, Major, &[DNS, CDN])
            .with_others(1)
            .update(CDN, Minor, CoveredBySystemIncident, held_by(1)),
        given("of several that have the component, which only others write, the worst covers")
            .system(1, Minor, &[DNS])
            .system(2, Outage, &[DNS])
            .system(3, Major, &[DNS])
            .update(DNS, Minor, CoveredBySystemIncident, held_by(2)),
        given("of several equal ones that have the component, the oldest covers")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[DNS])
            .system(3, Major, &[DNS])
            .update(DNS, Major, CoveredBySystemIncident, held_by(2)),
        given("the components that a batch knows nothing of are not meant")
            .system(1, Major, &[])
            .with_others(1)
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 major: DNS and others"])
            .writes(&["#1 +0 DNS added"]),
    ]);
}

#[test]
fn a_component_without_incident_joins_the_one_of_its_impact_or_opens_one() {
    check_all([
        given("where nothing stands, one is opened")
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
        given("it joins the one that has exactly the impact")
            .system(1, Minor, &[CDN])
            .update(DNS, Minor, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 minor: DNS CDN"])
            .writes(&["#1 +0 DNS added"]),
        given("neither a higher nor a lower one is joined")
            .system(1, Minor, &[CDN])
            .system(2, Outage, &[VPN])
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["#1 minor: CDN", "#2 outage: VPN", "new0 major: DNS"]),
        given("of each impact there is one, and that one is taken")
            .system(1, Outage, &[CDN])
            .system(2, Minor, &[VPN])
            .system(3, Major, &[])
            .with_others(3)
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(3))
            .leaves(&["#1 outage: CDN", "#2 minor: VPN", "#3 major: DNS and others"])
            .writes(&["#3 +0 DNS added"]),
        given("of several of one impact, which only others write, the oldest is joined")
            .system(7, Major, &[CDN])
            .system(9, Major, &[VPN])
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(7))
            .leaves(&["#7 major: DNS CDN", "#9 major: VPN"])
            .writes(&["#7 +0 DNS added"]),
        given("one that an operator took every component from is active still, and joined")
            .system(1, Minor, &[])
            .update(DNS, Minor, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 minor: DNS"])
            .writes(&["#1 +0 DNS added"]),
        given("one without components and of another impact stays as it is")
            .system(1, Minor, &[])
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["#1 minor: none", "new0 major: DNS"]),
    ]);
}

#[test]
fn a_component_that_gets_worse_moves_to_the_incident_of_its_impact() {
    check_all([
        given("it leaves an incident in which others stay")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[VPN])
            .update(DNS, Major, MovedToIncidentOfImpact, held_by(2))
            .leaves(&["#1 minor: CDN", "#2 major: DNS VPN"])
            .writes(&["#1 +0 DNS moved to #2", "#2 +0 DNS moved from #1"]),
        given("others that the batch has no updates of stay as well")
            .system(1, Minor, &[DNS])
            .with_others(1)
            .system(2, Major, &[VPN])
            .update(DNS, Major, MovedToIncidentOfImpact, held_by(2))
            .leaves(&["#1 minor: none and others", "#2 major: DNS VPN"])
            .writes(&["#1 +0 DNS moved to #2", "#2 +0 DNS moved from #1"]),
        given("the last one closes the old incident, which keeps it as its history")
            .system(1, Minor, &[DNS])
            .system(2, Outage, &[CDN])
            .update(DNS, Outage, MovedAsOnlyComponent, held_by(2))
            .leaves(&["#2 outage: DNS CDN", "closed #1 minor: DNS"])
            .writes(&["#1 +0 DNS moved to #2", "#1 +1 closed", "#2 +0 DNS moved from #1"]),
        given("an older incident takes it as well as a newer one")
            .system(1, Outage, &[CDN])
            .system(2, Major, &[DNS])
            .update(DNS, Outage, MovedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS CDN", "closed #2 major: DNS"])
            .writes(&["#2 +0 DNS moved to #1", "#2 +1 closed", "#1 +0 DNS moved from #2"]),
        given("it moves to exactly its impact, past one between")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[VPN])
            .system(3, Outage, &[])
            .with_others(3)
            .update(DNS, Outage, MovedToIncidentOfImpact, held_by(3))
            .leaves(&["#1 minor: CDN", "#2 major: VPN", "#3 outage: DNS and others"])
            .writes(&["#1 +0 DNS moved to #3", "#3 +0 DNS moved from #1"]),
        given("an incident without components takes it, too")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[])
            .update(DNS, Major, MovedAsOnlyComponent, held_by(2))
            .leaves(&["#2 major: DNS", "closed #1 minor: DNS"])
            .writes(&["#1 +0 DNS moved to #2", "#1 +1 closed", "#2 +0 DNS moved from #1"]),
        given("of several of one impact, which only others write, the oldest takes it")
            .system(1, Minor, &[DNS, CDN])
            .system(7, Major, &[VPN])
            .system(9, Major, &[])
            .update(DNS, Major, MovedToIncidentOfImpact, held_by(7))
            .leaves(&["#1 minor: CDN", "#7 major: DNS VPN", "#9 major: none"])
            .writes(&["#1 +0 DNS moved to #7", "#7 +0 DNS moved from #1"]),
        given("of several that have it, which only others write, it leaves the worst")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[DNS])
            .system(3, Outage, &[VPN])
            .update(DNS, Outage, MovedAsOnlyComponent, held_by(3))
            .leaves(&["#1 minor: DNS CDN", "#3 outage: DNS VPN", "closed #2 major: DNS"])
            .writes(&["#2 +0 DNS moved to #3", "#2 +1 closed", "#3 +0 DNS moved from #2"]),
    ]);
}

#[test]
fn a_lone_component_that_gets_worse_raises_its_incident() {
    check_all([
        given("the impact rises; title and start stay")
            .system(1, Minor, &[DNS])
            .update(DNS, Major, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 major: DNS"])
            .writes(&["#1 +0 raised from minor to major"]),
        given("it rises to the impact that is reported, not by one step")
            .system(1, Minor, &[DNS])
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS"])
            .writes(&["#1 +0 raised from minor to outage"]),
        given("an incident of a yet higher impact is no place to move to")
            .system(1, Minor, &[DNS])
            .system(2, Outage, &[CDN])
            .update(DNS, Major, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 major: DNS", "#2 outage: CDN"])
            .writes(&["#1 +0 raised from minor to major"]),
        given("nor is one between")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[CDN])
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS", "#2 major: CDN"])
            .writes(&["#1 +0 raised from minor to outage"]),
        given("of several that have it, which only others write, the worst is raised")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[DNS])
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(2))
            .leaves(&["#1 minor: DNS CDN", "#2 outage: DNS"])
            .writes(&["#2 +0 raised from major to outage"]),
    ]);
}

#[test]
fn a_component_that_gets_worse_than_its_companions_moves_to_a_new_incident() {
    check_all([
        given("the others stay at their impact")
            .system(1, Minor, &[DNS, CDN])
            .update(DNS, Major, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: CDN", "new0 major: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("others that the batch has no updates of stay as well")
            .system(1, Major, &[DNS])
            .with_others(1)
            .update(DNS, Outage, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 major: none and others", "new0 outage: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("incidents of other impacts, higher or between, are no place to move to")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Outage, &[VPN])
            .update(DNS, Major, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: CDN", "#2 outage: VPN", "new0 major: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("of several that have it, which only others write, it leaves the worst")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[DNS, CDN])
            .update(DNS, Outage, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: DNS", "#2 major: CDN", "new0 outage: DNS"])
            .writes(&["#2 +0 DNS moved to new0", "new0 +0 DNS moved from #2"]),
    ]);
}

#[test]
fn the_updates_of_an_incident_get_later_and_later_whatever_the_clock_says() {
    check_all([
        given("an earlier update leaves the clock's time")
            .system(1, Minor, &[CDN])
            .last_updated(1, -1)
            .update(DNS, Minor, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 minor: DNS CDN"])
            .writes(&["#1 +0 DNS added"]),
        given("an update of this very moment pushes the next one on")
            .system(1, Minor, &[CDN])
            .last_updated(1, 0)
            .update(DNS, Minor, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 minor: DNS CDN"])
            .writes(&["#1 +1 DNS added"]),
        given("an update ahead of the clock does so, too")
            .system(1, Minor, &[DNS])
            .last_updated(1, HOUR)
            .update(DNS, Major, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 major: DNS"])
            .writes(&["#1 +3600000001 raised from minor to major"]),
        given("the two entries of a closing follow it one after the other")
            .system(1, Minor, &[DNS])
            .last_updated(1, 5)
            .system(2, Major, &[CDN])
            .update(DNS, Major, MovedAsOnlyComponent, held_by(2))
            .leaves(&["#2 major: DNS CDN", "closed #1 minor: DNS"])
            .writes(&["#1 +6 DNS moved to #2", "#1 +7 closed", "#2 +0 DNS moved from #1"]),
        given("each of the two incidents of a move has times of its own")
            .system(1, Minor, &[DNS, CDN])
            .last_updated(1, -5)
            .system(2, Major, &[VPN])
            .last_updated(2, 5)
            .update(DNS, Major, MovedToIncidentOfImpact, held_by(2))
            .leaves(&["#1 minor: CDN", "#2 major: DNS VPN"])
            .writes(&["#1 +0 DNS moved to #2", "#2 +6 DNS moved from #1"]),
        given("a new incident does not care how far the old one was ahead")
            .system(1, Minor, &[DNS, CDN])
            .last_updated(1, 5)
            .update(DNS, Major, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: CDN", "new0 major: DNS"])
            .writes(&["#1 +6 DNS moved to new0", "new0 +0 DNS moved from #1"]),
    ]);
}

/// Applies updates to an empty state as one batch, all at [`now`]: the clock may not advance.
fn one_batch(
    updates: &[(ComponentId, Impact)],
) -> (ActiveState, Vec<(Reason, Holder)>, Vec<String>) {
    let mut state = ActiveState::default();
    let mut decided = Vec::new();
    let mut history = Vec::new();
    for (component, impact) in updates {
        let effect = state.apply(*component, *impact, TEXT, now());
        decided.push((effect.reason, effect.holder));
        history.extend(effect.timeline.iter().map(drawn_entry));
    }
    (state, decided, history)
}

#[test]
fn an_update_sees_what_the_ones_before_it_in_the_batch_did() {
    let (state, decided, history) = one_batch(&[
        (DNS, Minor),
        (CDN, Minor),
        (DNS, Minor),
        (VPN, Major),
        (DNS, Outage),
        (CDN, Major),
        (VPN, Outage),
        (CDN, Outage),
    ]);
    assert_eq!(
        decided,
        [
            (NoIncidentOfImpact, held_by_new(0)),
            (JoinedIncidentOfImpact, held_by_new(0)),
            (CoveredBySystemIncident, held_by_new(0)),
            (NoIncidentOfImpact, held_by_new(1)),
            (MovedToNewIncident, held_by_new(2)),
            (MovedAsOnlyComponent, held_by_new(1)),
            (MovedToIncidentOfImpact, held_by_new(2)),
            // Now it is the only one in the major incident, which the batch opened and now closes.
            (MovedAsOnlyComponent, held_by_new(2)),
        ]
    );
    assert_eq!(
        drawn_state(&state),
        ["new2 outage: DNS CDN VPN", "closed new0 minor: CDN", "closed new1 major: CDN"]
    );
    assert_eq!(state.opened(), 3);
    // The clock did not advance, and still the times of each incident's entries increase.
    assert_eq!(
        history,
        [
            "new0 +0 CDN added",
            "new0 +1 DNS moved to new2",
            "new2 +0 DNS moved from new0",
            "new0 +2 CDN moved to new1",
            "new0 +3 closed",
            "new1 +0 CDN moved from new0",
            "new1 +1 VPN moved to new2",
            "new2 +1 VPN moved from new1",
            "new1 +2 CDN moved to new2",
            "new1 +3 closed",
            "new2 +2 CDN moved from new1",
        ]
    );
}

#[test]
fn a_closed_incident_is_neither_joined_nor_does_it_cover() {
    let (mut state, _, _) = one_batch(&[(DNS, Minor), (CDN, Major), (DNS, Major)]);
    assert_eq!(drawn_state(&state), ["new1 major: DNS CDN", "closed new0 minor: DNS"]);
    let closed = state.closed.clone();

    let effect = state.apply(VPN, Minor, TEXT, at(1));
    assert_eq!((effect.reason, effect.holder), (NoIncidentOfImpact, held_by_new(2)));
    let effect = state.apply(DNS, Minor, TEXT, at(2));
    assert_eq!((effect.reason, effect.holder), (CoveredBySystemIncident, held_by_new(1)));
    assert_eq!(state.closed, closed);
}

#[test]
fn an_active_incident_is_older_than_any_that_the_batch_opens() {
    assert!(standing(i32::MAX) < IncidentRef::New(0));
    assert!(standing(2) < standing(10));
    assert!(IncidentRef::New(2) < IncidentRef::New(10));
}
