//! Queues that can't be consumed: RabbitMQ ends the connection, or never answers. Workers leave them out, so that all
//! others are consumed.
//!
//! A queue is broken like that if the node died that was declaring it (`docs/setup/high-availability.md`).

use std::{collections::BTreeSet, future::ready, pin::pin, time::Duration};

use futures_util::{StreamExt, stream};
use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use parking_lot::Mutex;
use shared::amqp::{broker::Broker, topology::Topology};
use tokio::time::{sleep, timeout};

use super::deliveries::start;

/// What the connections are for, in RabbitMQ's lists.
const PURPOSE: &str = "worker: trial of a queue";
/// Number of queues that are tried concurrently.
const AT_ONCE: usize = 8;
/// Time for RabbitMQ to start a delivery, or to end the connection: a node gives up connecting to one that is switched
/// off after 7 s.
const LIMIT: Duration = Duration::from_secs(8);
/// Time for RabbitMQ to close a connection.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two trials of the queues that are left out.
const EVERY: Duration = Duration::from_secs(10);

/// The queues that are left out.
#[derive(Default)]
pub(crate) struct BrokenQueues(Mutex<BTreeSet<String>>);

impl BrokenQueues {
    pub(super) fn contains(&self, queue: &str) -> bool {
        self.0.lock().contains(queue)
    }

    /// Tries all queues of a topology, each on a connection of its own. If none can be consumed, they are not the
    /// cause, and none is left out.
    pub(super) async fn find(&self, broker: &Broker, topology: &Topology) {
        let trials = topology.queues().map(async |queue| {
            (tried(broker, topology, &queue).await == Trial::Fails).then_some(queue)
        });
        let failed = stream::iter(trials).buffer_unordered(AT_ONCE).filter_map(ready);
        let mut broken: BTreeSet<String> = failed.collect().await;
        if topology.queues().all(|queue| broken.contains(&queue)) {
            broken.clear();
        }
        for queue in &broken {
            tracing::warn!(queue, "this queue can't be consumed: it is left out");
        }
        *self.0.lock() = broken;
    }

    /// Tries what is left out, at intervals; returns when one of these queues need not be left out any more.
    pub(super) async fn fixed(&self, broker: &Broker, topology: &Topology, queues: &[String]) {
        loop {
            sleep(EVERY).await;
            let mut is_fixed = false;
            // Those of other workers, too: this one may have to consume them soon.
            for queue in topology.queues().filter(|queue| self.contains(queue)) {
                if tried(broker, topology, &queue).await == Trial::Succeeds {
                    tracing::info!(queue, "this queue can be consumed again");
                    self.0.lock().remove(&queue);
                    is_fixed |= queues.contains(&queue);
                }
            }
            if is_fixed {
                return;
            }
        }
    }
}

/// What became of consuming a queue.
#[derive(PartialEq, Eq)]
enum Trial {
    /// It can be consumed, or it is missing: a session declares it.
    Succeeds,
    Fails,
    /// It could not be tried.
    Unknown,
}

/// Consumes a queue for a moment. What is delivered is requeued, at its place: the connection is closed while its
/// consumer exists.
async fn tried(broker: &Broker, topology: &Topology, queue: &str) -> Trial {
    let Ok(connection) = broker.connect(PURPOSE).await else { return Trial::Unknown };
    let mut consuming = pin!(async {
        let channel = connection.create_channel().await?;
        start(&channel, queue, "trial", topology.prefetch).await
    });
    let started = timeout(LIMIT, &mut consuming).await;
    drop(timeout(CLOSE_LIMIT, connection.close(200, "tried".into())).await);
    match &started {
        Ok(Ok(_)) => Trial::Succeeds,
        Ok(Err(error)) if is_missing(error) => Trial::Succeeds,
        Ok(Err(error)) if is_internal(error) => Trial::Fails,
        Ok(Err(_)) => Trial::Unknown,
        Err(_) => Trial::Fails,
    }
}

/// Whether RabbitMQ ended a connection because of a fault of its own.
pub(super) fn is_internal(error: &lapin::Error) -> bool {
    is(error, AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR))
}

/// Whether RabbitMQ knows no such queue or exchange.
pub(super) fn is_missing(error: &lapin::Error) -> bool {
    is(error, AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

fn is(error: &lapin::Error, kind: AMQPErrorKind) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == kind)
}
