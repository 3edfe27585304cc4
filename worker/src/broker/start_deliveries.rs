//! Starts the deliveries of a share, without waiting for queues that have no leader.

#[cfg(test)]
mod tests;

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use lapin::Connection;
use tokio::time::{sleep, timeout};

use super::deliveries::{Deliveries, DeliveryError, QueueKind, consume};
use crate::{membership::Share, store::workers::MemberId};

/// How long all queues are waited for, if some of them are delivered already.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time for RabbitMQ to start one delivery. While a node of a cluster stalls, the queues that it led are
/// delivered only when RabbitMQ has given the node up: after a minute by its defaults.
const LATE_LIMIT: Duration = Duration::from_secs(90);

/// The deliveries of a session, those that begin later included. It is kept until the connection is closed,
/// however the session ends: what is dropped before cancels its consumer, even one that was not polled yet.
#[derive(Default)]
pub(super) struct Starting {
    started: Vec<Deliveries>,
    late: FuturesUnordered<BoxFuture<'static, Result<Deliveries, DeliveryError>>>,
}

impl Starting {
    /// Starts the deliveries of these queues. Those of a queue that is late begin when it is ready, and the
    /// others do not wait for it.
    ///
    /// # Errors
    /// When RabbitMQ refuses.
    pub(super) async fn consume_all(
        &mut self,
        connection: &Connection,
        share: &Share,
        member: MemberId,
        queues: Vec<(String, QueueKind)>,
    ) -> Result<(), DeliveryError> {
        let arrivals = Arc::new(AtomicU64::new(0));
        for (queue, kind) in queues {
            let channel = connection.create_channel().await?;
            let prefetch = share.topology().prefetch;
            let consuming = consume(channel, prefetch, member, queue, kind, arrivals.clone());
            self.late.push(in_time(async move { Ok(consuming.await?) }.boxed()).boxed());
        }
        self.wait().await?;
        if !self.late.is_empty() {
            let late = self.late.len();
            tracing::warn!(late, "some queues have no leader yet: the others do not wait for them");
        }
        Ok(())
    }

    /// Waits until all have started, or some have and the others are late.
    async fn wait(&mut self) -> Result<(), DeliveryError> {
        let mut patience = pin!(sleep(PATIENCE));
        while !self.late.is_empty() {
            tokio::select! {
                biased;
                Some(deliveries) = self.late.next() => self.started.push(deliveries?),
                () = &mut patience, if !self.started.is_empty() => break,
            }
        }
        Ok(())
    }

    /// All deliveries.
    pub(super) fn into_deliveries(self) -> Vec<Deliveries> {
        let Self { mut started, late } = self;
        if !late.is_empty() {
            let late = late.map(|deliveries| deliveries.unwrap_or_else(failed));
            started.push(Box::pin(late.flatten_unordered(None)));
        }
        started
    }
}

/// The deliveries that this starts, or an error if it takes too long. It is kept then, because it may have
/// got a consumer.
async fn in_time(
    mut consuming: BoxFuture<'static, Result<Deliveries, DeliveryError>>,
) -> Result<Deliveries, DeliveryError> {
    match timeout(LATE_LIMIT, &mut consuming).await {
        Ok(started) => started,
        Err(_) => {
            let kept = stream::once(consuming).flat_map(|started| started.unwrap_or_else(failed));
            Ok(Box::pin(failed(DeliveryError::Silent).chain(kept)))
        }
    }
}

fn failed(error: DeliveryError) -> Deliveries {
    Box::pin(stream::once(async { Err(error) }))
}
