//! The answer for an update: the same for a single one and for one of many.

use axum::http::StatusCode;
use shared::{outcome::Outcome, update_id::UpdateId};

use super::get_update::UpdateState;
use crate::{
    http::error::ApiError,
    ingest::{
        publisher::PublishError,
        submit::{Decided, Submitted},
    },
};

/// The Python dashboard's message for an update that an incident already covers.
pub(super) const CONFLICT: &str = "Incident with this the component already exists";

/// The answer for one update.
pub(super) enum UpdateAnswer {
    /// It was decided.
    Decided(StatusCode, Decided),
    /// 202: it is safe, and its receipt will have the outcome, or says that it is parked.
    Accepted(UpdateId, UpdateState),
    /// It was not accepted; with its id, if it was assigned one.
    Refused(Option<UpdateId>, ApiError),
}

impl UpdateAnswer {
    /// With `as_python`, as the Python dashboard answers it.
    pub(super) fn new(submitted: Submitted, as_python: bool) -> Self {
        match submitted {
            Submitted::Refused(error) => Self::Refused(None, error),
            Submitted::Unpublished { id, error } => {
                Self::Refused(Some(id), unpublished(id, &error))
            }
            Submitted::Pending(id) => Self::Accepted(id, UpdateState::Pending),
            Submitted::Parked(id) => Self::Accepted(id, UpdateState::Parked),
            Submitted::Rejected(id) => {
                let message =
                    "This Idempotency-Key was used for another update; nothing was changed";
                Self::Refused(Some(id), ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message))
            }
            Submitted::Decided(decided) => {
                Self::Decided(status(decided.reason.outcome(), as_python), decided)
            }
        }
    }
}

/// The status of an answer. With `as_python` it is the Python dashboard's: 409 when an incident covers
/// the component (rules 2 and 3), but 201 when a maintenance does (rule 1).
fn status(outcome: Outcome, as_python: bool) -> StatusCode {
    match outcome {
        Outcome::Opened | Outcome::Joined | Outcome::Raised | Outcome::Moved => StatusCode::CREATED,
        Outcome::Unchanged if as_python => StatusCode::CONFLICT,
        Outcome::Suppressed if as_python => StatusCode::CREATED,
        Outcome::Unchanged | Outcome::Suppressed => StatusCode::OK,
    }
}

/// 503: it was not accepted, or that is unknown.
fn unpublished(id: UpdateId, error: &PublishError) -> ApiError {
    ApiError::unavailable(match error {
        PublishError::Unconfirmed => format!(
            "{error}: the update may have been queued or not. Send it again with the same \
            Idempotency-Key, or look at {}",
            receipt_path(id)
        ),
        PublishError::Absent
        | PublishError::Blocked
        | PublishError::Late
        | PublishError::Full
        | PublishError::Unavailable
        | PublishError::Changing
        | PublishError::NoQueue => format!("{error}; nothing was queued, try again"),
    })
}

/// The path of an update's receipt.
pub(super) fn receipt_path(id: UpdateId) -> String {
    format!("/api/v1/updates/{id}")
}
