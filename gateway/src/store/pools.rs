//! The pools of connections to the database.

use std::{sync::Arc, time::Duration};

use shared::{
    database::{BY_INDEX, ConnectOptions},
    telemetry::chain,
    throttled,
};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};

/// Time that a request waits for a database connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tested before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Session options for lists.
const LIST_LIMITS: [(&str, &str); 2] = [
    // A backstop: a gateway gives up a list sooner.
    ("statement_timeout", "90s"),
    // Longer than a list may wait for its reader: otherwise PostgreSQL would consider its gateway gone.
    ("tcp_user_timeout", "15s"),
];

/// The pool for small and quick queries: receipts, the catalogue, the incidents of answers.
pub(crate) fn answers(database: &ConnectOptions, connections: u32) -> PgPool {
    pool(database.clone().with(BY_INDEX), connections)
}

/// The pool for lists, which are separate so that they can't block anything else.
pub(crate) fn lists(database: &ConnectOptions, connections: u32) -> PgPool {
    pool(database.clone().with(LIST_LIMITS), connections)
}

fn pool(database: ConnectOptions, connections: u32) -> PgPool {
    let unchecked = database.unchecked();
    let database = Arc::new(database);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            let database = database.clone();
            Box::pin(async move { checked(&database, connection).await })
        })
        .connect_lazy_with(unchecked)
}

/// Checks a new session of a pool. The reason of a refusal is logged here, because the pool does not report it.
async fn checked(
    database: &ConnectOptions,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let checked = database.check(connection).await;
    if let Err(error) = &checked {
        let reason = chain(error);
        throttled!(warn, &reason, reason, "a session of the database is refused");
    }
    checked
}
