//! Standbys: what commits wait for, and what a failover may lose.

use sqlx::PgConnection;

/// Number of commits in this database that have waited for a synchronous standby for more than a second. Such
/// a commit is durable on the primary, its locks are held, and nobody sees it before the standby has it.
///
/// # Errors
/// If the database fails.
pub async fn waiting_commits(database: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND datname = current_database()
            AND state_change < clock_timestamp() - interval '1 second'",
    )
    .fetch_one(database)
    .await
}

/// Warns if there are standbys and commits wait for none of them.
pub(crate) async fn warn_if_asynchronous(database: &mut PgConnection, are_several: bool) {
    let read: Result<(bool, bool), sqlx::Error> = sqlx::query_as(
        // Backups and archivers look like standbys to roles that are not in pg_monitor.
        "SELECT current_setting('synchronous_standby_names') = '', EXISTS (
            SELECT FROM pg_stat_replication
            WHERE application_name NOT IN ('pg_basebackup', 'pg_receivewal'))",
    )
    .fetch_one(database)
    .await;
    match read {
        Ok((true, has_standby)) if has_standby || are_several => tracing::warn!(
            "commits of PostgreSQL wait for no standby (synchronous_standby_names is empty): a failover \
            loses the newest ones, also of updates that were answered"
        ),
        Ok(_) => {}
        Err(error) => {
            let reason = crate::telemetry::chain(&error);
            tracing::debug!(reason, "it can't be seen whether commits wait for a standby");
        }
    }
}
