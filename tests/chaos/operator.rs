//! An operator who closes all incidents now and then, so that the updates that follow change
//! something again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use harness::replay::Closing;
use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use crate::{load::Load, random::Random};

/// Closes the incidents until it is dropped; keeps in `closings` what it may have closed.
pub(crate) async fn close_now_and_then(
    database: &PgPool,
    load: &Arc<Load>,
    mut random: Random,
    closings: &std::sync::Mutex<Vec<Closing>>,
) {
    loop {
        sleep(random.millis(3_000, 12_000)).await;
        let closed = timeout(Duration::from_secs(5), close(database, closings)).await;
        match closed.context("silence").and_then(|closed| closed) {
            Ok(()) => load.diary.note("operator: all incidents are closed"),
            Err(error) => load.diary.note(format!("operator: could not close: {error:#}")),
        }
    }
}

/// Takes the lock of the scope, which the dashboard does not, only to learn the place in the inbox.
async fn close(database: &PgPool, closings: &std::sync::Mutex<Vec<Closing>>) -> Result<()> {
    let mut transaction = database.begin().await?;
    let after: i64 = sqlx::query_scalar("SELECT position FROM sdb_scope FOR UPDATE")
        .fetch_one(&mut *transaction)
        .await?;
    let closed = sqlx::query_as(
        "UPDATE incident SET end_date = clock_timestamp() AT TIME ZONE 'UTC'
        WHERE system AND end_date IS NULL RETURNING id, end_date",
    )
    .fetch_all(&mut *transaction)
    .await?;
    {
        // Noted before the commit, of which nobody may learn whether it succeeded: the replay asks
        // the database.
        let mut closings = closings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let closed = closed.into_iter().map(|(incident, at)| Closing { after, incident, at });
        closings.extend(closed);
    }
    Ok(transaction.commit().await?)
}
