use super::*;

const INCIDENT: IncidentId = IncidentId(1);
const STAYS: ComponentId = ComponentId(1);
const LEAVES: ComponentId = ComponentId(2);

/// An hour of a day.
fn hour(hour: u8) -> Timestamp {
    format!("2026-03-01T{hour:02}:00:00Z").parse().unwrap()
}

fn span(start: u8, end: Option<u8>) -> Span {
    Span { start: hour(start), end: end.map(hour), impact: 2 }
}

/// An incident of both components, inserted at this hour.
fn inserted(start: u8, end: Option<u8>, now: u8) -> Telling {
    let mut telling = Telling::default();
    telling.tell(Event::Inserted(INCIDENT, span(start, end)), hour(now), 1);
    for component in [STAYS, LEAVES] {
        telling.tell(Event::Joined(INCIDENT, component), hour(now), 1);
    }
    telling
}

fn updated(telling: &mut Telling, start: u8, end: Option<u8>, now: u8) {
    telling.tell(Event::Updated(INCIDENT, span(start, end)), hour(now), 2);
}

/// The intervals of a component as begin and end.
fn of(telling: &Telling, component: ComponentId) -> Vec<(Timestamp, Option<Timestamp>)> {
    let own = telling.intervals().iter().filter(|((_, of, _), _)| *of == component);
    own.map(|((_, _, began), (_, ended))| (*began, *ended)).collect()
}

#[test]
fn a_maintenance_that_is_brought_forward_keeps_its_length() {
    let mut end_first = inserted(20, Some(22), 1);
    updated(&mut end_first, 20, Some(12), 2);
    updated(&mut end_first, 10, Some(12), 2);
    let mut start_first = inserted(20, Some(22), 1);
    updated(&mut start_first, 10, Some(22), 2);
    updated(&mut start_first, 10, Some(12), 2);
    for telling in [end_first, start_first] {
        assert_eq!(of(&telling, STAYS), [(hour(10), Some(hour(12)))]);
    }
}

#[test]
fn a_component_that_left_before_the_start_was_never_affected() {
    for ends_first in [false, true] {
        let mut telling = inserted(20, Some(22), 1);
        telling.tell(Event::Left(INCIDENT, LEAVES), hour(2), 2);
        if ends_first {
            updated(&mut telling, 20, Some(12), 3);
            updated(&mut telling, 10, Some(12), 3);
        } else {
            updated(&mut telling, 10, Some(22), 3);
        }
        assert_eq!(of(&telling, LEAVES), [(hour(10), Some(hour(10)))]);
    }
}

#[test]
fn a_start_that_is_corrected_takes_an_end_before_it_into_account() {
    let mut telling = inserted(12, None, 13);
    updated(&mut telling, 12, Some(10), 14);
    assert_eq!(of(&telling, STAYS), [(hour(12), Some(hour(12)))]);
    updated(&mut telling, 8, Some(10), 15);
    assert_eq!(of(&telling, STAYS), [(hour(8), Some(hour(10)))]);
}

#[test]
fn what_left_after_the_end_does_not_follow_a_later_one() {
    let mut telling = inserted(10, Some(12), 13);
    telling.tell(Event::Left(INCIDENT, LEAVES), hour(14), 2);
    updated(&mut telling, 10, Some(20), 15);
    assert_eq!(of(&telling, STAYS), [(hour(10), Some(hour(20)))]);
    assert_eq!(of(&telling, LEAVES), [(hour(10), Some(hour(12)))]);
}

#[test]
fn what_left_at_a_time_of_its_own_is_not_affected_after_the_end() {
    for end_before in [None, Some(20)] {
        let mut telling = inserted(10, end_before, 10);
        telling.tell(Event::Left(INCIDENT, LEAVES), hour(14), 2);
        updated(&mut telling, 10, Some(12), 15);
        for component in [STAYS, LEAVES] {
            assert_eq!(of(&telling, component), [(hour(10), Some(hour(12)))]);
        }
        updated(&mut telling, 10, Some(9), 16);
        assert_eq!(of(&telling, LEAVES), [(hour(10), Some(hour(10)))]);
    }
}

#[test]
fn an_impact_that_changes_with_the_end_is_that_of_an_empty_interval() {
    let mut telling = inserted(10, None, 10);
    let raised = Span { impact: 3, ..span(10, Some(12)) };
    telling.tell(Event::Updated(INCIDENT, raised), hour(13), 2);
    let key = |began| (INCIDENT, STAYS, hour(began));
    assert_eq!(telling.intervals()[&key(10)], (2, Some(hour(12))));
    assert_eq!(telling.intervals()[&key(12)], (3, Some(hour(12))));
    // What moves the end moves the last one.
    telling.tell(Event::Updated(INCIDENT, Span { end: Some(hour(14)), ..raised }), hour(15), 3);
    assert_eq!(telling.intervals()[&key(10)], (2, Some(hour(12))));
    assert_eq!(telling.intervals()[&key(12)], (3, Some(hour(14))));
}
