//! Logs the sessions that have locked rows which updates need.

use std::{sync::Arc, time::Duration};

use shared::{
    database::{ConnectOptions, Database},
    incident::IncidentId,
    telemetry::chain,
};
use sqlx::PgConnection;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// The least time between two reports.
const EVERY: Duration = Duration::from_secs(5);
/// Time for finding them.
const LIMIT: Duration = Duration::from_secs(2);

/// Finds and logs blocking sessions, on a separate connection. The worker's transaction never waits, so
/// that PostgreSQL's `pg_blocking_pids` can't be used.
pub(crate) struct Blockers {
    database: Arc<Mutex<Database>>,
    last: parking_lot::Mutex<Option<Instant>>,
}

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

impl Blockers {
    pub(crate) fn new(options: ConnectOptions) -> Self {
        let database = Arc::new(Mutex::new(Database::new(options)));
        Self { database, last: parking_lot::Mutex::new(None) }
    }

    /// Logs the sessions that have locked these incidents or their relations, at most once per interval.
    pub(crate) fn report(&self, updates: usize, incidents: Vec<IncidentId>) {
        let mut last = self.last.lock();
        let now = Instant::now();
        if last.is_some_and(|last| now.duration_since(last) < EVERY) {
            return;
        }
        *last = Some(now);
        let database = self.database.clone();
        tokio::spawn(async move {
            let mut database = database.lock().await;
            let found = timeout(LIMIT, find(&mut database, &incidents)).await;
            let blockers = match found {
                Ok(Ok(blockers)) if blockers.is_empty() => "none any more".to_owned(),
                Ok(Ok(blockers)) => blockers.join("; "),
                Ok(Err(error)) => format!("unknown: {}", chain(&error)),
                Err(_) => "unknown: the database did not answer in time".to_owned(),
            };
            let incidents =
                incidents.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                updates,
                incidents,
                blockers,
                "updates wait: another session holds rows that they need"
            );
        });
    }
}

async fn find(
    database: &mut Database,
    incidents: &[IncidentId],
) -> Result<Vec<String>, sqlx::Error> {
    database
        .with(async |connection: &mut PgConnection| {
            let blockers = sessions(connection, OF_TRANSACTION, incidents).await?;
            if blockers.is_empty() {
                sessions(connection, OF_SEVERAL, incidents).await
            } else {
                Ok(blockers)
            }
        })
        .await
}

async fn sessions(
    database: &mut PgConnection,
    pids: &'static str,
    incidents: &[IncidentId],
) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!(
        "WITH rows_held AS MATERIALIZED (
            SELECT xmax FROM incident WHERE id = ANY($1) AND xmax <> '0'
            UNION
            SELECT xmax FROM incident_component_relation
            WHERE incident_id = ANY($1) AND xmax <> '0'
        ), pids AS MATERIALIZED ({pids})
        SELECT {SESSION}
        FROM pg_stat_activity
        WHERE pid IN (SELECT pid FROM pids) AND pid <> pg_backend_pid()
        ORDER BY pid"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).bind(incidents).fetch_all(database).await
}
