//! The idempotency keys of the last 24 hours.

use sqlx::PgConnection;

/// Deletes keys that are older. In small steps: a statement that exceeds its time limit would be rolled
/// back entirely.
///
/// # Errors
/// When a statement fails; what was deleted before remains deleted.
pub(crate) async fn delete_expired(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    let expired = "DELETE FROM sdb_idempotency_key WHERE key IN (
            SELECT key FROM sdb_idempotency_key
            WHERE used_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '24 hours'
            ORDER BY used_at LIMIT 10000 FOR UPDATE SKIP LOCKED)";
    while sqlx::query(expired).execute(&mut *database).await?.rows_affected() > 0 {}
    Ok(())
}
