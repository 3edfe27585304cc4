//! Completes `sdb_affected` for what was written without its triggers: before the first `worker migrate`, or
//! between `worker detach` and the next.

use std::time::Duration;

use anyhow::{Context, Result};
use shared::domain::incident::IncidentId;
use sqlx::PgConnection;
use tokio::time::sleep;

use crate::store::{affected::compare_rest, lock_holders};

/// The incidents of one transaction, and about how many components they have together. Writers wait for those, so
/// they are few.
const CHUNK: i64 = 500;
const CHUNK_COMPONENTS: i64 = 2_000;
/// The rows without an incident or component that one transaction deletes.
const ORPHANS: i64 = 1_000;
/// Pause until incidents that others have locked are tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often they are tried. Then workers go on with it, every hour.
const ATTEMPTS: u32 = 10;
/// Incidents that the message names.
const NAMED: usize = 20;

/// Compares all incidents, if some may have been written without the triggers. A run that is interrupted is
/// repeated by the next one. Returns a message if incidents are left that others have locked.
pub(super) async fn complete(database: &mut PgConnection) -> Result<Option<String>> {
    let mut left = attempt(database)
        .await
        .context("the record of when components were affected can't be completed")?;
    if left.is_empty() {
        return Ok(None);
    }
    left.sort_unstable();
    let named: Vec<String> = left.iter().take(NAMED).map(ToString::to_string).collect();
    let holders = lock_holders::find(database, &left, &[]).await?;
    Ok(Some(format!(
        "Others have locked {} incidents ({}{}): since when their components are affected is recorded later, by \
        the workers every hour or by the next `worker migrate`. Sessions: {}.",
        left.len(),
        named.join(", "),
        if left.len() > NAMED { ", …" } else { "" },
        if holders.is_empty() { "unknown".to_owned() } else { holders.join("; ") },
    )))
}

/// Returns the incidents that are left.
async fn attempt(database: &mut PgConnection) -> Result<Vec<IncidentId>, sqlx::Error> {
    let is_to_compare: Option<bool> =
        sqlx::query_scalar("SELECT incidents IS NULL FROM sdb_affected_pending")
            .fetch_optional(&mut *database)
            .await?;
    if is_to_compare == Some(true) {
        delete_orphans(database).await?;
        let left = compare_all(database).await?;
        sqlx::query("UPDATE sdb_affected_pending SET incidents = $1")
            .bind(left)
            .execute(&mut *database)
            .await?;
    }
    for _ in 1..ATTEMPTS {
        if compare_rest(database).await?.is_empty() {
            return Ok(Vec::new());
        }
        sleep(PAUSE).await;
    }
    compare_rest(database).await
}

async fn delete_orphans(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM sdb_affected_change a
        WHERE NOT EXISTS (SELECT FROM incident i WHERE i.id = a.incident_id)",
    )
    .execute(&mut *database)
    .await?;
    loop {
        let deleted = sqlx::query(
            "DELETE FROM sdb_affected WHERE ctid = ANY(ARRAY(SELECT a.ctid FROM sdb_affected a
                WHERE NOT EXISTS (SELECT FROM incident i WHERE i.id = a.incident_id)
                    OR NOT EXISTS (SELECT FROM component c WHERE c.id = a.component_id)
                LIMIT $1 FOR UPDATE OF a SKIP LOCKED))",
        )
        .bind(ORPHANS)
        .execute(&mut *database)
        .await?
        .rows_affected();
        if deleted == 0 {
            return Ok(());
        }
    }
}

/// Compares every incident that nobody has locked, and returns the others.
async fn compare_all(database: &mut PgConnection) -> Result<Vec<IncidentId>, sqlx::Error> {
    let mut left = Vec::new();
    let mut last: Option<IncidentId> = None;
    loop {
        let chunk = chunk_after(database, last).await?;
        let Some(newest) = chunk.last() else { return Ok(left) };
        last = Some(*newest);
        let locked: Vec<IncidentId> = sqlx::query_scalar("SELECT sdb_affected_compare($1)")
            .bind(chunk)
            .fetch_one(&mut *database)
            .await?;
        left.extend(locked);
    }
}

/// The next incidents: at least one, and no more than have about as many components as a chunk may have.
async fn chunk_after(
    database: &mut PgConnection,
    last: Option<IncidentId>,
) -> Result<Vec<IncidentId>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM (
            SELECT i.id, sum(components) OVER (ORDER BY i.id) - components AS before
            FROM (SELECT id FROM incident WHERE $1::integer IS NULL OR id > $1 ORDER BY id LIMIT $2) AS i,
                LATERAL (SELECT count(*) AS components FROM incident_component_relation r
                    WHERE r.incident_id = i.id) AS counted
        ) AS chunk WHERE before < $3 ORDER BY id",
    )
    .bind(last)
    .bind(CHUNK)
    .bind(CHUNK_COMPONENTS)
    .fetch_all(database)
    .await
}
