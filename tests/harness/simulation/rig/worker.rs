//! The one place that calls the worker's transaction and unpacks envelopes, and the faults that can be
//! planted there.

use anyhow::Result;
use shared::wire::message::Verdict;
use sqlx::PgConnection;
use worker::{
    batch::{ApplyError, Delivered, Incoming, MessageResult, UnpackedUpdate, Unusable, apply},
    store::workers::MemberId,
};

use super::edit::is_passing;

/// A worker that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It parks whatever it gets.
    ParksEverything,
    /// It reports another incident than it decided.
    AnswersOtherwise,
    /// It acknowledges an envelope when the first of its updates is settled.
    AcknowledgesEarly,
    /// It drops the last update of an envelope.
    DropsTheLast,
    /// It takes the first two updates of an envelope in the wrong order.
    SwapsTwo,
    /// It gives all updates of an envelope the id of the first.
    GivesOneId,
}

/// The updates of a delivery.
pub(super) fn unpack(delivered: Delivered<'_>, broken: Option<Broken>) -> Vec<UnpackedUpdate> {
    let mut parts = delivered.unpack();
    let Some(broken) = broken.filter(|_| parts.len() > 1) else { return parts };
    match broken {
        Broken::DropsTheLast => drop(parts.pop()),
        Broken::SwapsTwo => parts.swap(0, 1),
        Broken::GivesOneId => {
            let first = parts.first().and_then(|part| Some(part.content.as_ref().ok()?.id));
            let contents = parts.iter_mut().filter_map(|part| part.content.as_mut().ok());
            for (update, first) in contents.zip(first.into_iter().cycle()) {
                update.id = first;
            }
        }
        // Not while it unpacks.
        Broken::ParksEverything | Broken::AnswersOtherwise | Broken::AcknowledgesEarly => {}
    }
    parts
}

/// Applies a batch.
pub(super) async fn apply_batch(
    connection: &mut PgConnection,
    member: MemberId,
    mut batch: Vec<Incoming>,
    broken: Option<Broken>,
) -> Result<Vec<MessageResult>, ApplyError> {
    if broken == Some(Broken::ParksEverything) {
        for incoming in &mut batch {
            incoming.content = Err(Unusable::GivenUp("as all others".to_owned()));
        }
    }
    let mut applied = apply(connection, member, &batch).await?;
    if broken == Some(Broken::AnswersOtherwise) {
        for applied in &mut applied {
            if let MessageResult::Settled(Some(Verdict::Decided {
                incident: Some(incident), ..
            })) = applied
            {
                incident.id.0 += 1;
            }
        }
    }
    Ok(applied)
}

/// Whether a worker tries the same batch again.
pub(super) fn is_tried_again(error: &ApplyError) -> bool {
    match error {
        ApplyError::Expired => false,
        ApplyError::TooLong(_) => true,
        ApplyError::Database(error) => is_passing(error),
    }
}
