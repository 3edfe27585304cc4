//! Starts the deliveries of a share, without waiting for queues that have no leader.

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use futures_util::{
    StreamExt,
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

/// Starts the deliveries of these queues. Those of a queue that is late begin when it is ready, and the
/// others do not wait for it. What has started is in `started`, also after an error: dropping it before the
/// connection is closed would cancel its consumer.
///
/// # Errors
/// When RabbitMQ refuses, or starts none in time.
pub(super) async fn consume_all(
    connection: &Connection,
    share: &Share,
    member: MemberId,
    queues: Vec<(String, QueueKind)>,
    started: &mut Vec<Deliveries>,
) -> Result<(), DeliveryError> {
    let (count, arrivals) = (queues.len(), Arc::new(AtomicU64::new(0)));
    let mut starting = FuturesUnordered::new();
    for (queue, kind) in queues {
        let channel = connection.create_channel().await?;
        let prefetch = share.topology().prefetch;
        let consuming = consume(channel, prefetch, member, queue, kind, arrivals.clone());
        starting.push(async {
            let started = timeout(LATE_LIMIT, consuming).await;
            Ok::<Deliveries, DeliveryError>(started.map_err(|_| DeliveryError::Silent)??)
        });
    }
    let mut patience = pin!(sleep(PATIENCE));
    while started.len() < count {
        tokio::select! {
            biased;
            Some(deliveries) = starting.next() => started.push(deliveries?),
            () = &mut patience, if !started.is_empty() => break,
        }
    }
    if started.len() < count {
        let late = count - started.len();
        tracing::warn!(late, "some queues have no leader yet: the others do not wait for them");
        let late = starting.map(|deliveries| {
            deliveries.unwrap_or_else(|error| Box::pin(stream::once(async { Err(error) })))
        });
        started.push(Box::pin(late.flatten_unordered(None)));
    }
    Ok(())
}
