//! A channel that is given up with unconfirmed messages, until RabbitMQ has closed it.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use lapin::Channel;
use tokio::time::Instant;

/// Time in which RabbitMQ closes a channel, unless a queue or a node hangs.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(8);

/// A channel that is being closed.
pub(super) struct Closing {
    closed: BoxFuture<'static, bool>,
    /// When it begins to be late, or to be late again.
    late: Instant,
}

impl Closing {
    /// Begins, once it is waited for.
    pub(super) fn new(channel: Channel, now: Instant) -> Self {
        let closed = async move { channel.close(200, "overdue".into()).await.is_ok() };
        Self { closed: closed.boxed(), late: now + CLOSE_LIMIT }
    }

    /// Waits until the channel is closed, if one is being closed; false if the connection failed before.
    pub(super) async fn closed(closing: &mut Option<Self>) -> bool {
        let Some(Self { closed, .. }) = closing else { return std::future::pending().await };
        let closed = closed.await;
        *closing = None;
        closed
    }

    /// Whether it is late; said once in each of its time limits.
    pub(super) fn is_late(&mut self, now: Instant) -> bool {
        let is_late = self.late <= now;
        if is_late {
            self.late = now + CLOSE_LIMIT;
        }
        is_late
    }
}
