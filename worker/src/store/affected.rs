//! The record of when components were affected: what is noted is applied to it, and it is completed.

use shared::domain::incident::IncidentId;
use sqlx::PgConnection;

/// Compares those incidents again that others had locked. Returns those that are left. Each call of the function is
/// a transaction of its own, which waits for nobody.
///
/// # Errors
/// When the database fails; what was compared before remains so.
pub(crate) async fn compare_rest(
    database: &mut PgConnection,
) -> Result<Vec<IncidentId>, sqlx::Error> {
    let mut left = usize::MAX;
    loop {
        let rest: Vec<IncidentId> = sqlx::query_scalar("SELECT sdb_affected_compare_rest()")
            .fetch_one(&mut *database)
            .await?;
        if rest.is_empty() || rest.len() >= left {
            return Ok(rest);
        }
        left = rest.len();
    }
}

/// Applies to the record what is noted of incidents that have had no change for 5 s, and what was noted 20 s ago: while
/// a storm goes on, it would only take time away from batches, and what begins and ends meanwhile is cheaper to apply
/// together. Each call of the function is a short transaction of its own. What others keep it from is left for the next
/// time.
///
/// # Errors
/// When the database fails; what was applied before remains so.
pub(crate) async fn apply_noted(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    let apply = "SELECT sdb_affected_apply_some('5 seconds', '20 seconds')";
    while sqlx::query_scalar(apply).fetch_one(&mut *database).await? {}
    Ok(())
}
