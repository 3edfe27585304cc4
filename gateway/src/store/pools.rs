//! The pools of connections to the database.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shared::{
    database::{BY_INDEX, ConnectOptions},
    process::supervise,
    telemetry::chain,
    throttled,
};
use sqlx::{
    Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

/// Time that a request waits for a database connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tested before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Session options for lists.
pub(super) const LIST_LIMITS: [(&str, &str); 2] = [
    // A backstop: a gateway gives up a list sooner.
    ("statement_timeout", "90s"),
    // Longer than a list may wait for its reader: otherwise PostgreSQL would consider its gateway gone.
    ("tcp_user_timeout", "15s"),
];
/// Time for the connections to a former primary to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Connections to the primary. When another server takes over, a new pool replaces the one before, whose
/// connections may hang on a server that is stalled. Clones share it.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    database: Arc<ConnectOptions>,
    connections: u32,
    /// With the epoch of its server.
    current: Mutex<(u64, PgPool)>,
}

/// The pool for small and quick queries: receipts, the catalogue, the incidents of answers.
pub(crate) fn answers(database: &ConnectOptions, connections: u32) -> Pool {
    Pool::new(database.clone().with(BY_INDEX), connections)
}

/// The pool for lists, which are separate so that they can't block anything else.
pub(crate) fn lists(database: &ConnectOptions, connections: u32) -> Pool {
    Pool::new(database.clone().with(LIST_LIMITS), connections)
}

impl Pool {
    fn new(database: ConnectOptions, connections: u32) -> Self {
        let database = Arc::new(database);
        let (server, epoch) = database.unchecked_with_epoch();
        let current = Mutex::new((epoch, pool(&database, server, connections)));
        let pool = Self(Arc::new(Shared { database, connections, current }));
        supervise::spawn("database pool", pool.clone().follow());
        pool
    }

    /// Closes the connections to a former primary, though nobody asks for a connection.
    async fn follow(self) {
        loop {
            let epoch = self.0.current.lock().0;
            self.0.database.servers().replaced(epoch).await;
            self.now().await;
        }
    }

    /// The pool of the current primary, for one operation.
    pub(crate) async fn now(&self) -> PgPool {
        let Shared { database, connections, current } = &*self.0;
        database.servers().look_once().await;
        let mut current = current.lock();
        if current.0 != database.servers().epoch() {
            let (server, epoch) = database.unchecked_with_epoch();
            let before = std::mem::replace(&mut current.1, pool(database, server, *connections));
            current.0 = epoch;
            // What is in use ends by its own time limit.
            tokio::spawn(async move { drop(timeout(CLOSE_LIMIT, before.close()).await) });
        }
        current.1.clone()
    }

    /// The number of connections at most.
    pub(crate) fn connections(&self) -> u32 {
        self.0.connections
    }

    /// A connection to the current primary.
    ///
    /// # Errors
    /// When no connection is free in time, or none can be made to a primary.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        self.now().await.acquire().await
    }

    /// Waits until another server takes over from the one that is the primary now.
    pub(crate) fn replaced(&self) -> impl Future<Output = ()> + use<> {
        let servers = self.0.database.servers().clone();
        let epoch = servers.epoch();
        async move { servers.replaced(epoch).await }
    }
}

fn pool(database: &Arc<ConnectOptions>, server: PgConnectOptions, connections: u32) -> PgPool {
    let database = database.clone();
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
        .connect_lazy_with(server)
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
