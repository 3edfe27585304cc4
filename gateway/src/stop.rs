//! When the gateway is to stop, and for how long it goes on with what it has begun.

use std::{sync::OnceLock, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Time after `stop` in which outcomes are waited for: less than the server gives its connections.
const LAST_OUTCOME: Duration = Duration::from_secs(8);

/// Tells all who serve requests that the gateway is to stop.
pub(crate) struct Stop {
    token: CancellationToken,
    /// When that was seen.
    seen: OnceLock<Instant>,
}

impl Stop {
    pub(crate) const fn new(token: CancellationToken) -> Self {
        Self { token, seen: OnceLock::new() }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the gateway is to stop.
    pub(crate) async fn stops(&self) -> Instant {
        self.token.cancelled().await;
        *self.seen.get_or_init(Instant::now)
    }

    /// Waits until the gateway is to stop, and then for as long as an outcome may still be waited for.
    pub(crate) async fn ends(&self) {
        sleep_until(self.stops().await + LAST_OUTCOME).await;
    }
}
