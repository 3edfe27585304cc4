//! Recovery and reports, case by case: updates of one component in an order, each with its rule and the incident
//! that it names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{
    domain::{
        component::{Component, ComponentId},
        condition::Condition,
        impact::Impact,
        incident::IncidentId,
        outcome::{Reason, Rejection},
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::{Report, UpdateMessage},
};
use uuid::Uuid;

use super::at;
use crate::domain::{
    ActiveState, IncidentRef, MAX_LIVE_REPORTS, ManualIncident, ReportId, ReportState, Reports,
    SystemIncident, Update, UpdateDecision, decide, decide_update,
    timeline::{TimelineEntry, TimelineEvent},
};

const DNS: ComponentId = ComponentId(1);
const CDN: ComponentId = ComponentId(2);
const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;

fn existing(id: i32) -> IncidentRef {
    IncidentRef::Existing(IncidentId(id))
}

/// What a source says of DNS.
#[derive(Clone, Default)]
struct Said {
    /// `ok` without one.
    impact: Option<Impact>,
    source: &'static str,
    key: &'static str,
    starts_at: Option<i64>,
    ends_at: Option<i64>,
}

fn bad(source: &'static str, impact: Impact) -> Said {
    Said { impact: Some(impact), source, ..Said::default() }
}

fn ok(source: &'static str) -> Said {
    Said { source, ..Said::default() }
}

fn firing(key: &'static str, starts_at: i64) -> Said {
    Said { key, starts_at: Some(starts_at), ..bad("alerts", Impact::Minor) }
}

fn resolved(key: &'static str, ends_at: i64) -> Said {
    Said { key, ends_at: Some(ends_at), ..ok("alerts") }
}

/// The state that updates are applied to, one after the other.
struct Played {
    state: ActiveState,
    reports: BTreeMap<(String, String), ReportState>,
    timeline: Vec<TimelineEntry>,
    now: i64,
}

impl Played {
    fn new(system: &[(i32, Impact, &[ComponentId])], manual: Vec<ManualIncident>) -> Self {
        let incident = |(id, impact, components): &(i32, Impact, &[ComponentId])| {
            let incident = SystemIncident {
                text: format!("system incident {id}"),
                impact: *impact,
                start_date: at(-HOUR),
                end_date: None,
                components: components.iter().copied().collect::<BTreeSet<_>>(),
                has_others: false,
                last_update_at: None,
            };
            (existing(*id), incident)
        };
        let manual = HashMap::from([(DNS, manual)]);
        let state = ActiveState::new(system.iter().map(incident).collect(), manual);
        Self { state, reports: BTreeMap::new(), timeline: Vec::new(), now: 0 }
    }

    /// Applies an update; returns its rule and the incident that it names.
    fn says(&mut self, said: &Said) -> Result<(Reason, Option<IncidentRef>), Rejection> {
        self.now += 1;
        let now = at(self.now);
        let message = message(said, now);
        let known = self.reports.clone();
        let mut reports = reports(&known);
        let UpdateDecision { decision, report } =
            decide_update(&self.state, &reports, &message, now)?;
        if let Some((id, state)) = report {
            reports.carry_out(id, state);
            self.reports.insert((id.source.to_owned(), id.key.to_owned()), state);
        }
        let update = Update { component: DNS, text: "Incident", at: now };
        let incident = self.state.carry_out(&decision, update, &mut self.timeline);
        Ok((decision.reason(), incident))
    }

    fn live(&self) -> usize {
        self.reports.values().filter(|report| report.is_live).count()
    }
}

fn reports(known: &BTreeMap<(String, String), ReportState>) -> Reports<'_> {
    let live = known.values().filter(|report| report.is_live).count();
    let id = |source, key| ReportId { component: DNS, source, key };
    let known = known.iter().map(|((source, key), state)| (id(source, key), *state));
    Reports::new(known.collect(), HashMap::from([(DNS, live)]))
}

fn message(said: &Said, now: Timestamp) -> UpdateMessage {
    let report = Report {
        source: said.source.to_owned(),
        key: said.key.to_owned(),
        ttl: None,
        starts_at: said.starts_at.map(at),
        ends_at: said.ends_at.map(at),
    };
    UpdateMessage {
        id: UpdateId(Uuid::nil()),
        component: Component { id: DNS, name: "DNS".to_owned(), attributes: Vec::new() },
        condition: said.impact.map_or(Condition::Ok, Condition::Impact),
        text: "Incident".to_owned(),
        received_at: now,
        idempotency: None,
        report: Some(report),
    }
}

fn manual(id: i32, impact: Impact) -> ManualIncident {
    ManualIncident {
        id: IncidentId(id),
        text: format!("manual incident {id}"),
        impact,
        start_date: at(-HOUR),
        end_date: None,
        last_update_at: None,
    }
}

#[test]
fn the_only_component_closes_its_incident_and_stays_its_history() {
    let mut played = Played::new(&[], Vec::new());
    let opened = IncidentRef::New(0);
    assert_eq!(
        played.says(&bad("a", Impact::Minor)),
        Ok((Reason::NoIncidentOfImpact, Some(opened)))
    );
    assert_eq!(played.says(&ok("a")), Ok((Reason::RecoveredAsOnlyComponent, Some(opened))));
    assert!(played.state.system.is_empty());
    let closed = &played.state.closed[&opened];
    assert_eq!(closed.components, BTreeSet::from([DNS]));
    assert_eq!(closed.end_date, Some(at(2)));
    let events: Vec<_> = played.timeline.iter().map(|e| (e.at, e.event.clone())).collect();
    assert_eq!(events, [(at(2), TimelineEvent::Recovered(DNS)), (at(3), TimelineEvent::Closed)]);
    assert_eq!(played.says(&ok("a")), Ok((Reason::InNoSystemIncident, None)));
    assert_eq!(played.timeline.len(), 2, "a doubled `ok` changes nothing");
}

#[test]
fn one_of_several_components_leaves() {
    let mut played = Played::new(&[(1, Impact::Major, &[DNS, CDN])], Vec::new());
    // The incident is older than reports: anybody's `ok` recovers its component.
    assert_eq!(played.says(&ok("a")), Ok((Reason::RecoveredAmongOthers, Some(existing(1)))));
    assert_eq!(played.state.system[&existing(1)].components, BTreeSet::from([CDN]));
    assert_eq!(played.says(&ok("b")), Ok((Reason::InNoSystemIncident, None)));
}

#[test]
fn the_last_report_counts() {
    let mut played = Played::new(&[(1, Impact::Outage, &[DNS])], Vec::new());
    for said in [bad("a", Impact::Minor), bad("b", Impact::Minor)] {
        assert_eq!(played.says(&said), Ok((Reason::CoveredBySystemIncident, Some(existing(1)))));
    }
    // One that never said anything ends nobody's report.
    for source in ["c", "a", "a"] {
        let stands = Ok((Reason::AnotherReportStands, Some(existing(1))));
        assert_eq!(played.says(&ok(source)), stands, "{source}");
    }
    assert_eq!(played.live(), 1);
    assert_eq!(played.says(&ok("b")), Ok((Reason::RecoveredAsOnlyComponent, Some(existing(1)))));
}

#[test]
fn a_component_leaves_all_of_its_incidents_the_worst_and_oldest_first() {
    let mut played = Played::new(
        &[(1, Impact::Minor, &[DNS]), (2, Impact::Major, &[DNS, CDN]), (3, Impact::Major, &[DNS])],
        Vec::new(),
    );
    assert_eq!(played.says(&ok("a")), Ok((Reason::RecoveredAmongOthers, Some(existing(2)))));
    let left: Vec<_> = played.timeline.iter().map(|entry| entry.incident).collect();
    assert_eq!(left, [2, 3, 3, 1, 1].map(existing));
    assert_eq!(played.state.system.keys().copied().collect::<Vec<_>>(), [existing(2)]);
}

#[test]
fn manual_incidents_and_maintenances_stay_and_are_shown() {
    for impact in [Impact::Maintenance, Impact::Minor] {
        let covering = Some(existing(7));
        let mut played = Played::new(&[(1, Impact::Outage, &[DNS])], vec![manual(7, impact)]);
        assert_eq!(played.says(&bad("b", Impact::Minor)).unwrap().1, covering);
        assert_eq!(played.says(&ok("a")), Ok((Reason::AnotherReportStands, covering)));
        // It counts during a maintenance.
        let recovered = Ok((Reason::RecoveredAsOnlyComponent, Some(existing(1))));
        assert_eq!(played.says(&ok("b")), recovered);
        assert_eq!(played.says(&ok("b")), Ok((Reason::InNoSystemIncident, covering)));
        assert_eq!(played.state.manual[&DNS], [manual(7, impact)]);
    }
}

#[test]
fn an_alert_that_is_late_or_doubled_changes_nothing() {
    let mut played = Played::new(&[], Vec::new());
    let first = Some(IncidentRef::New(0));
    assert_eq!(played.says(&firing("k", 10)), Ok((Reason::NoIncidentOfImpact, first)));
    assert_eq!(played.says(&resolved("k", 20)), Ok((Reason::RecoveredAsOnlyComponent, first)));
    let late = Ok((Reason::BeganBeforeKnownEnd, None));
    for starts_at in [10, 19, 20] {
        assert_eq!(played.says(&firing("k", starts_at)), late, "{starts_at}");
    }
    assert_eq!(played.live(), 0);
    // Another key, and a new start, are new.
    let second = Some(IncidentRef::New(1));
    assert_eq!(played.says(&firing("k", 21)), Ok((Reason::NoIncidentOfImpact, second)));
    assert_eq!(played.says(&firing("other", 10)), Ok((Reason::CoveredBySystemIncident, second)));
    // The first alert's end comes again.
    assert_eq!(played.says(&resolved("k", 20)), Ok((Reason::EndedBeforeKnownStart, second)));
    assert_eq!(played.live(), 2);
    assert_eq!(played.says(&resolved("k", 30)), Ok((Reason::AnotherReportStands, second)));
    assert_eq!(played.says(&resolved("other", 30)), Ok((Reason::RecoveredAsOnlyComponent, second)));
}

#[test]
fn an_end_that_overtakes_its_beginning_is_remembered() {
    let mut played = Played::new(&[], Vec::new());
    assert_eq!(played.says(&resolved("k", 20)), Ok((Reason::InNoSystemIncident, None)));
    assert_eq!(played.says(&firing("k", 10)), Ok((Reason::BeganBeforeKnownEnd, None)));
    // An `ok` without a time forgets no end.
    assert_eq!(
        played.says(&Said { key: "k", ..ok("alerts") }),
        Ok((Reason::InNoSystemIncident, None))
    );
    assert_eq!(played.says(&firing("k", 20)), Ok((Reason::BeganBeforeKnownEnd, None)));
}

#[test]
fn an_alert_that_goes_on_firing_after_its_end_fires_again() {
    let mut played = Played::new(&[], Vec::new());
    let first = Some(IncidentRef::New(0));
    assert_eq!(played.says(&firing("k", 10)), Ok((Reason::NoIncidentOfImpact, first)));
    assert_eq!(played.says(&resolved("k", 20)), Ok((Reason::RecoveredAsOnlyComponent, first)));
    // A copy may be late by a minute.
    played.now += MINUTE;
    assert_eq!(played.says(&firing("k", 10)), Ok((Reason::BeganBeforeKnownEnd, None)));
    played.now += MINUTE;
    let second = Some(IncidentRef::New(1));
    assert_eq!(played.says(&firing("k", 10)), Ok((Reason::NoIncidentOfImpact, second)));
    // If it was a copy after all, its end comes as well.
    assert_eq!(played.says(&resolved("k", 20)), Ok((Reason::RecoveredAsOnlyComponent, second)));
    let third = Some(IncidentRef::New(2));
    assert_eq!(played.says(&firing("k", 30)), Ok((Reason::NoIncidentOfImpact, third)));
    // The old end is repeated hours later.
    played.now += 10 * HOUR;
    assert_eq!(played.says(&resolved("k", 20)), Ok((Reason::EndedBeforeKnownStart, third)));
}

#[test]
fn a_clock_that_is_ahead_neither_keeps_a_report_nor_hides_the_next_one() {
    let hour = HOUR;
    let mut played = Played::new(&[], Vec::new());
    let first = Some(IncidentRef::New(0));
    assert_eq!(played.says(&firing("k", hour)), Ok((Reason::NoIncidentOfImpact, first)));
    // The clock was corrected.
    assert_eq!(played.says(&resolved("k", 10)), Ok((Reason::RecoveredAsOnlyComponent, first)));
    let second = Some(IncidentRef::New(1));
    assert_eq!(played.says(&firing("k", 11)), Ok((Reason::NoIncidentOfImpact, second)));
    assert_eq!(played.says(&resolved("k", hour)), Ok((Reason::RecoveredAsOnlyComponent, second)));
    let third = Some(IncidentRef::New(2));
    assert_eq!(played.says(&firing("k", 12)), Ok((Reason::NoIncidentOfImpact, third)));
    // By a minute it may be ahead.
    assert_eq!(played.says(&resolved("k", MINUTE)), Ok((Reason::RecoveredAsOnlyComponent, third)));
    assert_eq!(played.says(&firing("k", MINUTE)), Ok((Reason::BeganBeforeKnownEnd, None)));
}

#[test]
fn an_end_that_is_repeated_ends_nothing_else() {
    let mut played = Played::new(&[], Vec::new());
    let first = Some(IncidentRef::New(0));
    assert_eq!(played.says(&bad("a", Impact::Minor)), Ok((Reason::NoIncidentOfImpact, first)));
    assert_eq!(played.says(&ok("a")), Ok((Reason::RecoveredAsOnlyComponent, first)));
    // What an update without a report opens, as of an older gateway, is about something else.
    let second = Some(IncidentRef::New(1));
    let update = Update { component: DNS, text: "Incident", at: at(3) };
    let decision = decide(&played.state, update, Impact::Minor);
    assert_eq!(played.state.carry_out(&decision, update, &mut played.timeline), second);
    assert_eq!(played.says(&ok("a")), Ok((Reason::ReportHadEnded, second)));
    assert_eq!(played.timeline.len(), 2, "it changes nothing");
    // After a day nobody knows that it is repeated.
    played.now += 24 * HOUR;
    assert_eq!(played.says(&ok("a")), Ok((Reason::RecoveredAsOnlyComponent, second)));
}

#[test]
fn a_component_has_a_thousand_reports_at_most() {
    let mut played = Played::new(&[(1, Impact::Outage, &[DNS])], Vec::new());
    let state = ReportState {
        is_live: true,
        first_at: at(0),
        last_at: at(0),
        ttl: None,
        update: UpdateId(Uuid::nil()),
        starts_at: None,
        ended_at: None,
        ends_at: None,
    };
    for number in 0..MAX_LIVE_REPORTS {
        played.reports.insert(("many".to_owned(), number.to_string()), state);
    }
    assert_eq!(played.says(&bad("a", Impact::Minor)), Err(Rejection::TooManyReports));
    let renewed = Said { key: "7", ..bad("many", Impact::Minor) };
    assert!(played.says(&renewed).is_ok(), "a renewal is not one more");
    assert!(played.says(&Said { key: "7", ..ok("many") }).is_ok());
    assert!(played.says(&bad("a", Impact::Minor)).is_ok(), "one has ended");
    assert_eq!(played.says(&renewed), Err(Rejection::TooManyReports));
}
