//! The lock that operators' commands hold, so that only one of them runs at a time.

use std::time::Duration;

use anyhow::Result;
use sqlx::PgConnection;
use tokio::time::sleep;

/// Between two looks at whether another command has ended.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs a command while no other operator's command is at it. Its failure is told, whatever becomes of
/// the lock then, which ends with the session at the latest.
pub(crate) async fn alone<T>(
    database: &mut PgConnection,
    command: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
) -> Result<T> {
    lock(database).await?;
    let done = command(database).await;
    let unlocked = unlock(database).await;
    let done = done?;
    unlocked?;
    Ok(done)
}

/// Waits until no other operator's command is at it. Not inside PostgreSQL: an index that is made
/// without stopping writers waits for every statement, and a waiting one would be such.
async fn lock(database: &mut PgConnection) -> Result<()> {
    while !sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock(hashtext('sdb_migrate'))")
        .fetch_one(&mut *database)
        .await?
    {
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn unlock(database: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_advisory_unlock(hashtext('sdb_migrate'))").execute(database).await?;
    Ok(())
}
