//! The locks of operators' commands: one for those that run one at a time, and one that keeps the topology
//! as it is.

use std::time::Duration;

use anyhow::Result;
use sqlx::PgConnection;
use tokio::time::sleep;

/// Pause between two checks whether another command has ended.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs a command while no other such command runs. Its own failure is returned, whatever becomes of the
/// lock then, which ends with the session at the latest.
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

/// Waits until no other such command runs, by polling: `CREATE INDEX CONCURRENTLY` waits for every
/// running statement, which would include one that waits for the lock.
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

/// Prevents changes of the topology while the session lasts.
pub(crate) async fn hold_topology(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_lock_shared(hashtext('sdb_topology'))")
        .execute(database)
        .await?;
    Ok(())
}
