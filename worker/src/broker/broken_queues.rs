//! Queues that can't be consumed because RabbitMQ then ends the connection. Workers leave them out, so that all
//! others are consumed.
//!
//! A queue is broken like that if the node that was declaring it died, for as long as this node is away
//! (`docs/setup/high-availability.md`).

use std::{collections::BTreeSet, pin::pin, time::Duration};

use futures_util::{StreamExt, stream};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use parking_lot::Mutex;
use shared::amqp::{broker::Broker, topology::Topology};
use tokio::time::{sleep, timeout};

use super::node_trial;

/// What the connections are for, in RabbitMQ's lists.
const PURPOSE: &str = "worker: trial of a queue";
/// Number of queues that are tried concurrently.
const AT_ONCE: usize = 8;
/// Time for RabbitMQ to start a delivery, or to end the connection.
const LIMIT: Duration = Duration::from_secs(2);
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

    /// Tries all queues of a topology, each on a connection of its own.
    pub(super) async fn find(&self, broker: &Broker, topology: &Topology) {
        let trials = topology.queues().map(async |queue| {
            if is_broken(broker, topology, &queue).await == Some(true) {
                tracing::warn!(
                    queue,
                    "RabbitMQ ends connections that consume this queue: it is left out"
                );
                self.0.lock().insert(queue);
            }
        });
        stream::iter(trials).buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// Tries these queues, which are left out, at intervals; returns when one of them need not be left out any more.
    pub(super) async fn mended(&self, broker: &Broker, topology: &Topology, left_out: &[String]) {
        if left_out.is_empty() {
            return std::future::pending().await;
        }
        loop {
            sleep(EVERY).await;
            let mut is_mended = false;
            for queue in left_out {
                if is_broken(broker, topology, queue).await == Some(false) {
                    tracing::info!(queue, "this queue can be consumed again");
                    is_mended |= self.0.lock().remove(queue);
                }
            }
            if is_mended {
                return;
            }
        }
    }
}

/// Whether RabbitMQ ends a connection that consumes this queue; none if there is no connection. A queue that only has
/// no leader is not broken: its delivery begins later.
///
/// What is delivered is requeued, at its place: the connection is closed while its consumer exists.
async fn is_broken(broker: &Broker, topology: &Topology, queue: &str) -> Option<bool> {
    let connection = broker.connect(PURPOSE).await.ok()?;
    let mut trying = pin!(async {
        let channel = connection.create_channel().await?;
        node_trial::start(&channel, queue.to_owned(), topology.prefetch).await
    });
    let tried = timeout(LIMIT, &mut trying).await;
    drop(timeout(CLOSE_LIMIT, connection.close(200, "tried".into())).await);
    Some(matches!(&tried, Ok(Err(error)) if is_internal(error)))
}

/// Whether RabbitMQ ended a connection because of a fault of its own.
pub(super) fn is_internal(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    *error.kind() == AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR)
}
