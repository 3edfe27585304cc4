//! The partitions of the inbox, one a week.

use sqlx::{AssertSqlSafe, PgConnection};

use super::lock_holders::SESSION;

/// Changes the owner of the partitions to the owner of the inbox. `worker migrate` may run as another
/// role, whose partitions the workers could not drop.
const GIVE_PARTITIONS_TO_THE_OWNER: &str = "DO $$
DECLARE
    child_table regclass;
    owner name;
BEGIN
    FOR child_table, owner IN SELECT child.oid, pg_get_userbyid(inbox.relowner)
        FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
            JOIN pg_class inbox ON inbox.oid = inhparent
        WHERE inhparent = 'sdb_inbox'::regclass AND child.relowner <> inbox.relowner
            AND pg_has_role(child.relowner, 'USAGE')
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', child_table, owner);
    END LOOP;
END $$";

/// Creates the inbox's partitions ahead of time, drops those older than `days`, and deletes idempotency
/// keys after 24 hours. Workers can do this concurrently.
pub(crate) async fn keep(database: &mut PgConnection, days: u32) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT sdb_make_inbox_parts($1)")
        .bind(days as i32)
        .execute(&mut *database)
        .await?;
    sqlx::query(GIVE_PARTITIONS_TO_THE_OWNER).execute(&mut *database).await?;
    let dropped =
        sqlx::query("SELECT sdb_drop_inbox_parts($1)").bind(days as i32).execute(&mut *database);
    match dropped.await {
        Ok(_) => {}
        Err(error)
            if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("55P03") =>
        {
            let sessions = readers(database).await?.join("; ");
            tracing::info!(
                sessions,
                "old partitions of the inbox are being read: they are dropped later"
            );
        }
        Err(error) => return Err(error),
    }
    // In small steps: a statement that exceeds its time limit would be rolled back entirely.
    loop {
        let forgotten = sqlx::query(
            "DELETE FROM sdb_idempotency_key WHERE key IN (
                SELECT key FROM sdb_idempotency_key
                WHERE used_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '24 hours'
                ORDER BY used_at LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        )
        .execute(&mut *database)
        .await?;
        if forgotten.rows_affected() == 0 {
            return Ok(());
        }
    }
}

/// The three sessions that have been reading the inbox for the longest time.
async fn readers(database: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!(
        "SELECT {SESSION} FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND pid IN (
            SELECT l.pid FROM pg_locks l
            WHERE l.granted AND l.locktype = 'relation'
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND l.relation IN (SELECT 'sdb_inbox'::regclass UNION ALL
                    SELECT inhrelid FROM pg_inherits WHERE inhparent = 'sdb_inbox'::regclass))
        ORDER BY xact_start LIMIT 3"
    );
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(database).await
}
