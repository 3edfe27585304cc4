//! Applies to the record of when components were affected what is noted, outside of the scope's lock.

use std::time::Duration;

use shared::{
    database::{Database, sqlstate},
    telemetry::chain,
    throttled,
};
use tokio::time::{sleep, timeout};

use crate::store::affected;

/// Time between two looks for what was noted.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of one look: a silent connection must not stop it forever.
const LIMIT: Duration = Duration::from_secs(60);

/// For as long as the worker runs. Several workers can do this concurrently, and nothing waits for it: readers add to
/// the record what is not applied yet.
pub(crate) async fn apply(mut database: Database) {
    loop {
        let applied = timeout(LIMIT, database.with(affected::apply_noted));
        if let Err(error) = applied.await.unwrap_or_else(|_| Err(sqlstate::timed_out())) {
            let reason = chain(&error);
            let line = "the record of affected components can't be continued now";
            throttled!(warn, &reason, reason, "{line}");
        }
        sleep(INTERVAL).await;
    }
}
