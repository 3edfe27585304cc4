//! Removes what `adopt` added from the Python dashboard's tables.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::sleep;

use crate::store::command_locks::alone;

const DETACH: &str = include_str!("../../../migrations/detach.sql");
/// Pause between two checks for connected gateways and workers.
const PAUSE: Duration = Duration::from_millis(200);
/// How many such checks `worker detach` makes before it refuses.
const LOOKS: u32 = 10;

/// Removes our triggers, indexes and constraint from the dashboard's tables.
///
/// # Errors
/// When gateways or workers are connected, or the database fails.
pub async fn detach(database: &mut PgConnection) -> Result<()> {
    alone(database, detach_alone).await
}

async fn detach_alone(database: &mut PgConnection) -> Result<()> {
    // PostgreSQL shows the session of a stopped process for a moment longer.
    let mut looks = 1;
    while are_connected(database).await? {
        ensure!(looks < LOOKS, "gateways or workers are connected: stop all of them first");
        looks += 1;
        sleep(PAUSE).await;
    }
    let mut transaction = database.begin().await?;
    ensure!(
        !are_connected(&mut transaction).await?,
        "gateways or workers are connected: stop all of them first"
    );
    transaction.execute(sqlx::raw_sql(DETACH)).await?;
    Ok(transaction.commit().await?)
}

/// Whether gateways or workers are connected.
async fn are_connected(database: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND application_name IN ('gateway', 'worker'))",
    )
    .fetch_one(database)
    .await
}
