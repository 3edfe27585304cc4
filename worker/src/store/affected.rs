//! Completes the record of when components were affected.

use shared::incident::IncidentId;
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
