//! Housekeeping of the inbox: creates its partitions ahead of time, drops expired ones, and deletes expired
//! idempotency keys and reports. Completes the record of when components were affected, if `worker migrate` has left
//! something.

use std::time::Duration;

use shared::{database::Database, telemetry::chain};
use sqlx::PgConnection;
use tokio::time::sleep;

use crate::store::{affected, idempotency_keys, inbox_partitions, reports};

/// Time between two runs.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Time between two attempts.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Time limit of one attempt: a silent connection must not stop it forever.
const LIMIT: Duration = Duration::from_secs(600);

/// The housekeeping of the inbox, on a connection of its own.
pub(crate) struct Housekeeping {
    database: Database,
    inbox_days: u32,
}

impl Housekeeping {
    pub(crate) const fn new(database: Database, inbox_days: u32) -> Self {
        Self { database, inbox_days }
    }

    /// For as long as the worker runs.
    pub(crate) async fn run(mut self) {
        loop {
            self.complete_affected().await;
            sleep(INTERVAL).await;
            self.once().await;
        }
    }

    /// Nothing waits for it: after a failure it is tried an hour later.
    async fn complete_affected(&mut self) {
        match self.database.with_within(LIMIT, affected::compare_rest).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                let incidents = left.len();
                tracing::warn!(
                    incidents,
                    "others have locked incidents: since when their components are affected is recorded later"
                );
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(reason, "the record of affected components can't be completed now");
            }
        }
    }

    /// Once; retries until it succeeds.
    pub(crate) async fn once(&mut self) {
        let days = self.inbox_days;
        loop {
            let once = async |connection: &mut PgConnection| housekeep(connection, days).await;
            match self.database.with_within(LIMIT, once).await {
                Ok(()) => return,
                Err(error) => {
                    let reason = chain(&error);
                    tracing::warn!(reason, "the housekeeping of the inbox failed, trying again");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

/// One run. Workers and `worker migrate` can do this concurrently.
///
/// # Errors
/// When a statement fails. What the ones before it did remains; the next run does the rest.
pub(crate) async fn housekeep(
    database: &mut PgConnection,
    inbox_days: u32,
) -> Result<(), sqlx::Error> {
    inbox_partitions::create_ahead(database, inbox_days).await?;
    inbox_partitions::give_to_owner(database).await?;
    if let Some(readers) = inbox_partitions::drop_expired(database, inbox_days).await? {
        let sessions = readers.join("; ");
        tracing::info!(
            sessions,
            "old partitions of the inbox are being read: they are dropped later"
        );
    }
    idempotency_keys::delete_expired(database).await?;
    reports::delete_expired(database).await
}
