//! Logs the sessions that have locked rows which updates need.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shared::{
    database::{ConnectOptions, Database},
    telemetry::{chain, throttle::Throttle},
};
use sqlx::PgConnection;
use tokio::{sync::Mutex, time::timeout};

use crate::store::{incident_row_locks::LockableRow, lock_holders};

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

    /// Logs the sessions that have locked these rows. Throttled before they are looked for, so that a storm
    /// costs no queries.
    pub(crate) fn report(&self, updates: usize, rows: impl IntoIterator<Item = LockableRow>) {
        if self.throttle.say("blockers", std::time::Instant::now()).is_none() {
            return;
        }
        let (mut incidents, mut components) = (BTreeSet::new(), BTreeSet::new());
        for row in rows {
            match row {
                LockableRow::Incident(id)
                | LockableRow::Relation(id, _)
                | LockableRow::AnyOther(id) => incidents.insert(id),
                LockableRow::Component(id) => components.insert(id),
            };
        }
        let incidents: Vec<_> = incidents.into_iter().collect();
        let components: Vec<_> = components.into_iter().collect();
        let database = self.database.clone();
        tokio::spawn(async move {
            let mut database = database.lock().await;
            let finding = database.with(async |connection: &mut PgConnection| {
                lock_holders::find(connection, &incidents, &components).await
            });
            let blockers = match timeout(LIMIT, finding).await {
                Ok(Ok(blockers)) if blockers.is_empty() => "none any more".to_owned(),
                Ok(Ok(blockers)) => blockers.join("; "),
                Ok(Err(error)) => format!("unknown: {}", chain(&error)),
                Err(_) => "unknown: the database did not answer in time".to_owned(),
            };
            let (incidents, components) = (listed(&incidents), listed(&components));
            tracing::warn!(
                updates,
                incidents,
                components,
                blockers,
                "updates wait: another session holds rows that they need"
            );
        });
    }
}

/// Ids as one text; none without any.
fn listed(ids: &[impl ToString]) -> Option<String> {
    let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    (!ids.is_empty()).then(|| ids.join(", "))
}
