//! Logs the sessions that have locked rows which updates need.

use std::{sync::Arc, time::Duration};

use shared::{
    database::{ConnectOptions, Database},
    incident::IncidentId,
    telemetry::chain,
    throttle::Throttle,
};
use sqlx::PgConnection;
use tokio::{sync::Mutex, time::timeout};

use crate::store::lock_holders;

/// Time for finding them.
const LIMIT: Duration = Duration::from_secs(2);

/// Finds and logs blocking sessions, on a separate connection.
pub(crate) struct Blockers {
    database: Arc<Mutex<Database>>,
    throttle: Throttle,
}

impl Blockers {
    pub(crate) fn new(options: ConnectOptions) -> Self {
        let database = Arc::new(Mutex::new(Database::new(options)));
        Self { database, throttle: Throttle::new() }
    }

    /// Logs the sessions that have locked these incidents or their relations. Throttled before they are
    /// looked for, so that a storm costs no queries.
    pub(crate) fn report(&self, updates: usize, incidents: Vec<IncidentId>) {
        if self.throttle.say("blockers", std::time::Instant::now()).is_none() {
            return;
        }
        let database = self.database.clone();
        tokio::spawn(async move {
            let mut database = database.lock().await;
            let finding = database.with(async |connection: &mut PgConnection| {
                lock_holders::find(connection, &incidents).await
            });
            let blockers = match timeout(LIMIT, finding).await {
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
