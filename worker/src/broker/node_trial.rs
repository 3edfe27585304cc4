//! Tries whether a node of RabbitMQ can serve a worker.
//!
//! A node that has lost the majority of its cluster accepts connections and answers heartbeats, and neither
//! delivers nor confirms anything. A worker on such a node would keep its share from others.

use std::time::Duration;

use futures_util::{
    StreamExt,
    future::{join_all, try_join_all},
    stream::FuturesUnordered,
};
use lapin::Connection;
use shared::{
    amqp::{
        broker::Broker,
        topology::{DeclareError, Phase, Recorded, Topology},
    },
    database::Database,
};
use sqlx::PgConnection;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    broken_queues::{BrokenQueues, is_internal},
    deliveries::start,
};
use crate::membership::Share;

/// Time for a node to start a delivery.
const LIMIT: Duration = Duration::from_secs(5);
/// Time for the dead-letter queue alone: its leader may be on a stalled node, and this node may serve others.
const ALONE: Duration = Duration::from_secs(2);
/// Pause between two trials of a node that is in use.
const EVERY: Duration = Duration::from_secs(5);
/// How many partitions are tried then. Their leaders are spread over the nodes.
const PARTITIONS: u16 = 5;
/// Time for declaring the queues.
const DECLARE_LIMIT: Duration = Duration::from_secs(30);
/// Time for RabbitMQ to close the channels. It closes that of a queue without a leader much later.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why a node can't serve a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    #[error("the queues can't be declared")]
    Declare(#[from] DeclareError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not declare the queues within {} s", DECLARE_LIMIT.as_secs())]
    Undeclared,
    #[error("RabbitMQ delivered none of several queues within {} s", LIMIT.as_secs())]
    Silent,
}

/// Consumes a queue for a moment, which needs a majority of its members. If a queue is missing, declares all.
/// Ends early when the worker must stop.
///
/// # Errors
/// When the node refuses, or does not do it in time.
pub(super) async fn consume(
    connection: &Connection,
    database: &Mutex<Database>,
    broken: &BrokenQueues,
    stop: &CancellationToken,
) -> Result<(), TrialError> {
    let reading = async {
        let read = async |database: &mut PgConnection| Recorded::read(database).await;
        database.lock().await.with(read).await.map_err(DeclareError::from)
    };
    let recorded = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        recorded = reading => recorded?,
    };
    if recorded.phase != Phase::Open {
        return Ok(());
    }
    let topology = recorded.topology;
    match consume_one(connection, &topology, broken, stop).await {
        Err(TrialError::Broker(error)) if !is_internal(&error) => {}
        tried => return tried,
    }
    let declaring = declare(connection, &topology, database);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        declared = timeout(DECLARE_LIMIT, declaring) => {
            declared.map_err(|_| TrialError::Undeclared)??;
        }
    }
    consume_one(connection, &topology, broken, stop).await
}

/// Tries again while the worker consumes, if there are several nodes; returns once this one can't serve it any
/// more, because it is cut off from the others. To be dropped when the connection is closed.
pub(super) async fn fails(
    connection: &Connection,
    broker: &Broker,
    share: &Share,
    broken: &BrokenQueues,
    stop: &CancellationToken,
) -> TrialError {
    if !broker.has_several_hosts() || share.recorded.phase != Phase::Open {
        return std::future::pending().await;
    }
    loop {
        sleep(EVERY).await;
        // A queue that is missing is declared again, and a connection that fails is noticed.
        if let Err(error @ TrialError::Silent) =
            consume_one(connection, share.topology(), broken, stop).await
        {
            return error;
        }
    }
}

async fn declare(
    connection: &Connection,
    topology: &Topology,
    database: &Mutex<Database>,
) -> Result<(), DeclareError> {
    let channel = connection.create_channel().await?;
    let declare = async |database: &mut PgConnection| topology.declare(&channel, database).await;
    database.lock().await.with(declare).await?;
    Ok(channel.close(200, "declared".into()).await?)
}

/// Consumes until the first of some queues answers: the dead-letter queue, which is normally empty, and if it
/// is late, partitions. What is delivered is requeued, at its place: the channels are closed while their
/// consumers exist.
async fn consume_one(
    connection: &Connection,
    topology: &Topology,
    broken: &BrokenQueues,
    stop: &CancellationToken,
) -> Result<(), TrialError> {
    let some = (0..topology.partitions.min(PARTITIONS)).map(|one| (topology.queue(one), ALONE));
    let mut queues = vec![(topology.dead_letter_queue(), Duration::ZERO)];
    queues.extend(some);
    queues.retain(|(queue, _)| !broken.contains(queue));
    if queues.is_empty() {
        return Ok(());
    }
    let opening = try_join_all(queues.iter().map(|_| connection.create_channel()));
    let channels = timeout(LIMIT, opening).await.map_err(|_| TrialError::Silent)??;
    let consuming = channels.iter().zip(queues);
    let mut consuming: FuturesUnordered<_> = consuming
        .map(async |(channel, (queue, after))| {
            sleep(after).await;
            start(channel, &queue, "trial", topology.prefetch).await
        })
        .collect();
    // It has the consumer.
    let first = tokio::select! {
        first = consuming.next() => first,
        () = sleep(LIMIT) => None,
        () = stop.cancelled() => None,
    };
    let closing = join_all(channels.iter().map(|channel| channel.close(200, "tried".into())));
    // They are closed with the connection at the latest.
    drop(timeout(CLOSE_LIMIT, closing).await);
    drop(consuming);
    match first {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(error.into()),
        None if stop.is_cancelled() => Ok(()),
        None => Err(TrialError::Silent),
    }
}
