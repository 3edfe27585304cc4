//! The partitions of the inbox, one a week.

use shared::database::sqlstate;
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

/// Creates the partitions of the next weeks, and those of the last `days` that are missing.
///
/// # Errors
/// When the statement fails; nothing is created then.
pub(crate) async fn create_ahead(
    database: &mut PgConnection,
    days: u32,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT sdb_make_inbox_parts($1)").bind(days as i32).execute(database).await?;
    Ok(())
}

/// Gives partitions that another role created to the owner of the inbox.
///
/// # Errors
/// When the statement fails.
pub(crate) async fn give_to_owner(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(GIVE_PARTITIONS_TO_THE_OWNER).execute(database).await?;
    Ok(())
}

/// Drops the partitions that are older than `days`. Returns the sessions that prevent it, as those that
/// read the inbox do.
///
/// # Errors
/// When a statement fails for another reason than their locks.
pub(crate) async fn drop_expired(
    database: &mut PgConnection,
    days: u32,
) -> Result<Option<Vec<String>>, sqlx::Error> {
    let dropped =
        sqlx::query("SELECT sdb_drop_inbox_parts($1)").bind(days as i32).execute(&mut *database);
    match dropped.await {
        Ok(_) => Ok(None),
        Err(error) if sqlstate::is(&error, sqlstate::LOCK_NOT_AVAILABLE) => {
            Ok(Some(readers(database).await?))
        }
        Err(error) => Err(error),
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
