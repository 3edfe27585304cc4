//! Applies to the record of when components were affected what is noted, outside of the scope's lock.

use std::time::Duration;

use shared::{database::Database, telemetry::chain, throttled};
use tokio::time::sleep;

use crate::store::affected;

/// Time between two looks for what was noted.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of one look: a silent connection must not stop it forever.
const LIMIT: Duration = Duration::from_secs(60);

/// For as long as the worker runs. Several workers can do this concurrently, and nothing waits for it: readers add to
/// the record what is not applied yet.
pub(crate) async fn apply(mut database: Database) {
    loop {
        if let Err(error) = database.with_within(LIMIT, affected::apply_noted).await {
            let reason = chain(&error);
            let line = "the record of affected components can't be continued now";
            throttled!(warn, &reason, reason, "{line}");
        }
        sleep(INTERVAL).await;
    }
}
