//! Finds the sessions that have locked rows which updates need.

use shared::domain::{component::ComponentId, incident::IncidentId};
use sqlx::PgConnection;

/// The session whose transaction is in a row's `xmax`.
const OF_TRANSACTION: &str = "SELECT l.pid FROM rows_held r
    JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = r.xmax";
/// If several transactions share the row, `xmax` is a multixact id. PostgreSQL raises an error for any
/// other number.
const OF_SEVERAL: &str = "SELECT l.pid FROM rows_held r, pg_get_multixact_members(r.xmax) m
    JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = m.xid";

/// A session of `pg_stat_activity` in words.
pub(crate) const SESSION: &str = "concat('pid ', pid, ', user ', usename, ', application ',
    coalesce(nullif(application_name, ''), 'unnamed'), ', ', coalesce(state, 'state unknown'),
    ', in its transaction for ',
    coalesce(extract(epoch FROM clock_timestamp() - xact_start)::integer, 0), ' s')";

/// The sessions that have locked these incidents, their relations, or these components, in words. The worker's
/// transaction never waits, so that PostgreSQL's `pg_blocking_pids` can't be used.
///
/// # Errors
/// When the database fails.
pub(crate) async fn find(
    database: &mut PgConnection,
    incidents: &[IncidentId],
    components: &[ComponentId],
) -> Result<Vec<String>, sqlx::Error> {
    let holders = sessions(database, OF_TRANSACTION, incidents, components).await?;
    if holders.is_empty() {
        sessions(database, OF_SEVERAL, incidents, components).await
    } else {
        Ok(holders)
    }
}

async fn sessions(
    database: &mut PgConnection,
    pids: &'static str,
    incidents: &[IncidentId],
    components: &[ComponentId],
) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!(
        "WITH rows_held AS MATERIALIZED (
            SELECT xmax FROM incident WHERE id = ANY($1) AND xmax <> '0'
            UNION
            SELECT xmax FROM incident_component_relation
            WHERE incident_id = ANY($1) AND xmax <> '0'
            UNION
            SELECT xmax FROM component WHERE id = ANY($2) AND xmax <> '0'
        ), pids AS MATERIALIZED ({pids})
        SELECT {SESSION}
        FROM pg_stat_activity
        WHERE pid IN (SELECT pid FROM pids) AND pid <> pg_backend_pid()
        ORDER BY pid"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
        .bind(incidents)
        .bind(components)
        .fetch_all(database)
        .await
}
