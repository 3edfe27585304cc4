//! The one place that calls the worker's transaction, and the faults that can be planted there.

use anyhow::Result;
use shared::message::Verdict;
use sqlx::PgConnection;
use worker::{
    batch::{Applied, ApplyError, Incoming, Unusable, apply},
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
    let mut applied = apply(connection, member, &batch).await?;
    if broken == Some(Broken::AnswersOtherwise) {
        for applied in &mut applied {
            if let Applied::Settled(Some(result)) = applied
                && let Verdict::Decided { incident, .. } = &mut result.verdict
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
