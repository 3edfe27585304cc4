//! Waits for a transaction, also for one whose commit waits for a synchronous standby.
//!
//! PostgreSQL has made such a commit durable on the primary; it holds its locks, and reports success once
//! the standby has it, has been taken out of `synchronous_standby_names`, or the wait was cancelled. To give
//! it up would change nothing but the connection: the server's process would wait on, with the scope's lock.

use std::{future::Future, pin::pin, time::Duration};

use shared::{
    database::{ConnectOptions, standbys},
    throttled,
};
use tokio::time::{Instant, timeout};

/// How often it is asked whether commits wait.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Time for the answer.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Waits for an operation up to a limit, or up to `most` while commits wait for a synchronous standby. None
/// if it takes longer.
pub(crate) async fn within<T>(
    limit: Duration,
    most: Duration,
    operation: impl Future<Output = T>,
    database: &ConnectOptions,
) -> Option<T> {
    let began = Instant::now();
    let mut operation = pin!(operation);
    loop {
        if let Ok(done) = timeout(ASK_EVERY, &mut operation).await {
            return Some(done);
        }
        let is_waiting = tokio::select! {
            is_waiting = is_waiting(database) => is_waiting,
            done = &mut operation => return Some(done),
        };
        if began.elapsed() > if is_waiting { most } else { limit } {
            return None;
        }
        if is_waiting {
            throttled!(
                warn,
                "",
                "a commit waits for a synchronous standby: its updates count once the standby is back or is \
                taken out of synchronous_standby_names"
            );
        }
    }
}

/// Whether commits wait for a standby. If the database can't be asked, they do not.
async fn is_waiting(database: &ConnectOptions) -> bool {
    let asking = async {
        let mut connection = database.connect().await?;
        standbys::waiting_commits(&mut connection).await
    };
    matches!(timeout(ASK_LIMIT, asking).await, Ok(Ok(1..)))
}
