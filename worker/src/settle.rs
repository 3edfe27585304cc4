//! Settles a batch whatever the database does: tries again what fails for a passing reason, and
//! parks what it refuses.

use std::time::Duration;

use shared::{
    message::{UpdateResult, Verdict},
    telemetry::chain,
};
use sqlx::PgPool;
use tokio::time::sleep;

use crate::{
    inbox,
    step::{self, Incoming},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What to do about an error of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// It will pass: the same batch again.
    TryAgain,
    /// Something in the batch is at fault.
    Park,
}

/// The classes of SQLSTATE that blame the data: data exception, integrity constraint violation,
/// view check, program limit exceeded, and an exception raised by a trigger. All others, unknown
/// ones included, are the server's or the operator's to mend: parking for them would park all.
const BLAMES_DATA: [&str; 5] = ["22", "23", "44", "54", "P0"];

fn remedy(error: &sqlx::Error) -> Remedy {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some(code) if BLAMES_DATA.iter().any(|class| code.starts_with(class)) => Remedy::Park,
        Some(_) | None => Remedy::TryAgain,
    }
}

/// Applies a batch and returns what became of each message, however long the database is away. It
/// may be dropped at any point and run again.
///
/// A batch that the database refuses is halved until the message at fault stands alone and is
/// parked with the database's reason; the others take effect in their order.
pub(crate) async fn settle(database: &PgPool, batch: &[Incoming]) -> Vec<Option<UpdateResult>> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt(database, batch).await {
            Ok(results) => return results,
            Err(error) => error,
        };
        match (remedy(&error), batch) {
            (Remedy::Park, [one]) => match park(database, one, &error).await {
                Ok(result) => return vec![result],
                Err(error) => report(&error, 1),
            },
            (Remedy::Park, several) => {
                tracing::info!(
                    updates = several.len(),
                    reason = chain(&error),
                    "the database refuses the batch: halving it"
                );
                let (first, second) = several.split_at(several.len() / 2);
                let mut results = Box::pin(settle(database, first)).await;
                results.append(&mut Box::pin(settle(database, second)).await);
                return results;
            }
            (Remedy::TryAgain, several) => report(&error, several.len()),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn attempt(
    database: &PgPool,
    batch: &[Incoming],
) -> Result<Vec<Option<UpdateResult>>, sqlx::Error> {
    let mut connection = database.acquire().await?;
    step::apply(&mut connection, batch).await
}

async fn park(
    database: &PgPool,
    incoming: &Incoming,
    error: &sqlx::Error,
) -> Result<Option<UpdateResult>, sqlx::Error> {
    let mut connection = database.acquire().await?;
    inbox::park_refused(
        &mut connection,
        incoming,
        format!("the database refuses it: {}", chain(error)),
    )
    .await?;
    let id = incoming.content.as_ref().ok().map(|update| update.id);
    Ok(id.map(|id| UpdateResult { id, verdict: Verdict::Parked }))
}

fn report(error: &sqlx::Error, updates: usize) {
    tracing::warn!(updates, reason = chain(error), "the database failed: trying again");
}
