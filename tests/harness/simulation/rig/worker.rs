//! The one place that calls the worker's transaction, and the faults that can be planted there.

use anyhow::Result;
use shared::message::UpdateResult;
use sqlx::PgConnection;
use worker::{
    membership::MemberId,
    step::{ApplyError, Incoming, Unusable, apply},
};

use super::edit::is_passing;

/// What became of a message.
#[derive(Clone, Debug)]
pub(super) enum Applied {
    /// It is settled; a message without an id has no result.
    Settled(Option<UpdateResult>),
    /// Rows that it needs are locked by another session: it is not acknowledged, and heads the next
    /// batch.
    #[expect(dead_code, reason = "a worker that waits for locks defers nothing")]
    Deferred,
}

/// A worker that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It parks whatever it gets.
    ParksEverything,
    /// It reports another incident than it decided.
    AnswersOtherwise,
}

/// Applies a batch.
pub(super) async fn apply_batch(
    connection: &mut PgConnection,
    member: MemberId,
    mut batch: Vec<Incoming>,
    broken: Option<Broken>,
) -> Result<Vec<Applied>, ApplyError> {
    if broken == Some(Broken::ParksEverything) {
        for incoming in &mut batch {
            incoming.content = Err(Unusable::GivenUp("as all others".to_owned()));
        }
    }
    let mut results = apply(connection, member, &batch).await?;
    if broken == Some(Broken::AnswersOtherwise) {
        for result in results.iter_mut().flatten() {
            use shared::message::Verdict;
            if let Verdict::Decided { incident, .. } = &mut result.verdict {
                incident.id.0 += 1;
            }
        }
    }
    Ok(results.into_iter().map(Applied::Settled).collect())
}

/// Whether a worker tries the same batch again.
pub(super) fn is_tried_again(error: &ApplyError) -> bool {
    match error {
        ApplyError::Lapsed => false,
        ApplyError::Database(error) => is_passing(error),
    }
}
