//! Completes `sdb_affected` for what was written without its triggers: before the first `worker migrate`, or
//! between `worker detach` and the next.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::PgConnection;
use tokio::time::sleep;

/// The incidents of one transaction. Writers wait for those, so they are few.
const CHUNK: i64 = 500;
/// Pause until incidents that others have locked are tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Compares all incidents, if some may have been written without the triggers. A run that is interrupted is
/// repeated by the next one.
pub(super) async fn complete(database: &mut PgConnection) -> Result<()> {
    let is_pending: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM sdb_affected_pending)")
        .fetch_one(&mut *database)
        .await?;
    if is_pending {
        compare_all(database)
            .await
            .context("the record of when components were affected can't be completed")?;
    }
    Ok(())
}

async fn compare_all(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM sdb_affected a
        WHERE NOT EXISTS (SELECT FROM incident i WHERE i.id = a.incident_id)
            OR NOT EXISTS (SELECT FROM component c WHERE c.id = a.component_id)",
    )
    .execute(&mut *database)
    .await?;
    let mut last: Option<i32> = None;
    loop {
        let incidents: Vec<i32> = sqlx::query_scalar(
            "SELECT id FROM incident WHERE $1 IS NULL OR id > $1 ORDER BY id LIMIT $2",
        )
        .bind(last)
        .bind(CHUNK)
        .fetch_all(&mut *database)
        .await?;
        last = incidents.last().copied();
        if incidents.is_empty() {
            break;
        }
        compare(database, incidents).await?;
    }
    sqlx::query("DELETE FROM sdb_affected_pending").execute(database).await?;
    Ok(())
}

/// Each call is a transaction of its own, which waits for nobody.
async fn compare(database: &mut PgConnection, mut rest: Vec<i32>) -> Result<(), sqlx::Error> {
    loop {
        rest = sqlx::query_scalar("SELECT sdb_affected_compare($1)")
            .bind(rest)
            .fetch_one(&mut *database)
            .await?;
        if rest.is_empty() {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}
