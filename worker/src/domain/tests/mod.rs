//! The decision is tested three ways: by a table of cases, by generated histories against a second,
//! naive telling of the rules, and by what the Python dashboard was seen to answer.

mod cases;
mod conformance;
mod properties;
mod world;

use shared::timestamp::Timestamp;

/// So many microseconds after the moment around which a test's times lie.
fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000).unwrap().plus_micros(micros)
}
