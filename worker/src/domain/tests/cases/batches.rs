//! Several updates, and what is no longer active.

use super::*;

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
) -> (ActiveState, Vec<(Reason, IncidentRef)>, Vec<String>) {
    let mut state = ActiveState::default();
    let mut decided = Vec::new();
    let mut timeline = Vec::new();
    for (component, impact) in updates {
        let update = Update { component: *component, text: TEXT, at: now() };
        decided.push(apply(&mut state, update, *impact, &mut timeline));
    }
    (state, decided, timeline.iter().map(drawn_entry).collect())
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

    let mut apply = |component, at| {
        let update = Update { component, text: TEXT, at };
        apply(&mut state, update, Minor, &mut Vec::new())
    };
    assert_eq!(apply(VPN, at(1)), (NoIncidentOfImpact, held_by_new(2)));
    assert_eq!(apply(DNS, at(2)), (CoveredBySystemIncident, held_by_new(1)));
    assert_eq!(state.closed, closed);
}

#[test]
fn an_active_incident_is_older_than_any_that_the_batch_opens() {
    assert!(held_by(i32::MAX) < IncidentRef::New(0));
    assert!(held_by(2) < held_by(10));
    assert!(IncidentRef::New(2) < IncidentRef::New(10));
}
