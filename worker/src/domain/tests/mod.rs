//! The decision is tested in three ways: with a table of cases, with generated histories against a second,
//! naive implementation of the rules, and with recorded answers of the Python dashboard.

mod cases;
mod conformance;
mod properties;
mod recovery;
mod world;

use shared::domain::{impact::Impact, outcome::Reason, timestamp::Timestamp};

use super::{ActiveState, IncidentRef, Update, decide, timeline::TimelineEntry};

/// A time relative to the base time of a test, in microseconds.
fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000).unwrap().plus_micros(micros)
}

/// Decides an update that reports an impact and carries the decision out, as a batch does.
fn apply(
    state: &mut ActiveState,
    update: Update<'_>,
    impact: Impact,
    timeline: &mut Vec<TimelineEntry>,
) -> (Reason, IncidentRef) {
    let decision = decide(state, update, impact);
    let incident = state.carry_out(&decision, update, timeline);
    (decision.reason(), incident.expect("by the five rules there is one"))
}
