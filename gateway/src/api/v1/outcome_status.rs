//! The status of the answer for an update that was decided: the same for a single one and for one of many.

use axum::http::StatusCode;
use shared::domain::{condition::Condition, outcome::Outcome};

use crate::ingest::submit::Decided;

/// The Python dashboard's message for an update that an incident already covers.
pub(super) const CONFLICT: &str = "Incident with this the component already exists";

/// The status of an answer. With `as_python` it is the Python dashboard's: 409 when an incident covers
/// the component (rules 2 and 3), but 201 when a maintenance does (rule 1). That dashboard has no `ok`.
pub(super) fn status(decided: &Decided, as_python: bool) -> StatusCode {
    let as_python = as_python && decided.condition != Condition::Ok;
    match decided.reason.outcome() {
        Outcome::Opened
        | Outcome::Joined
        | Outcome::Raised
        | Outcome::Moved
        | Outcome::Left
        | Outcome::Closed => StatusCode::CREATED,
        Outcome::Unchanged if as_python => StatusCode::CONFLICT,
        Outcome::Suppressed if as_python => StatusCode::CREATED,
        Outcome::Unchanged | Outcome::Suppressed => StatusCode::OK,
    }
}
