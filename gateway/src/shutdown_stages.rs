//! When the gateway must stop, and for how long it continues what it has started.

use std::{sync::OnceLock, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Time after `stop` in which outcomes are waited for: less than the server gives its connections.
const LAST_OUTCOME: Duration = Duration::from_secs(8);

/// Announces to all tasks that the gateway is stopping.
pub(crate) struct Stop {
    token: CancellationToken,
    /// When that was noticed.
    seen: OnceLock<Instant>,
}

impl Stop {
    pub(crate) const fn new(token: CancellationToken) -> Self {
        Self { token, seen: OnceLock::new() }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the gateway is stopping.
    pub(crate) async fn stops(&self) -> Instant {
        self.token.cancelled().await;
        *self.seen.get_or_init(Instant::now)
    }

    /// Waits until the gateway is stopping, and then for as long as outcomes may still be awaited.
    pub(crate) async fn ends(&self) {
        sleep_until(self.stops().await + LAST_OUTCOME).await;
    }
}
