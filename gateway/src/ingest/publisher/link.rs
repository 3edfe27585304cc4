//! One link with RabbitMQ: a connection with the channels of the partitions, and the exchange that they end
//! with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed;
use lapin::{Channel, Connection};
use shared::{
    amqp::{
        broker::{Broker, ConnectError},
        topology::{DeclareError, Topology},
    },
    domain::update_id::UpdateId,
    telemetry::chain,
    throttled,
};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    channels::{ChannelPool, Channels},
    exchange::LinkExchange,
    lane::Lane,
    link_shared::LinkShared,
    node_progress::NodeProgress,
    ticket::{self, Queued},
};
use crate::{ingest::pending::PendingRequests, store::pools::Pool};

/// Time for a connection to the database.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);
/// Time for opening a link.
pub(super) const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// Time for declaring what is missing.
const DECLARE_LIMIT: Duration = Duration::from_secs(30);
/// How often a link is checked, to detect a connection that broke while idle.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What connections for updates are for, in RabbitMQ's lists and in reports.
pub(super) const PURPOSE: &str = "gateway: updates";
/// The same for those that are ready for updates, on another node.
pub(super) const SECOND_PURPOSE: &str = "gateway: updates, ready";

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not answer in time")]
    Silent,
    #[error("the queues are missing and can't be declared")]
    Undeclared(#[source] DeclareError),
    #[error("the number of partitions is being changed")]
    Changing,
}

/// What links are opened with.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) broker: Broker,
    pub(super) database: Pool,
    pub(super) pending: Arc<PendingRequests>,
}

/// One connection, with a lane for each partition.
pub(super) struct Link {
    pub(super) topology: Topology,
    channels: ChannelPool,
    lanes: Vec<Lane>,
    /// The exchange that only this link publishes to.
    pub(super) exchange: LinkExchange,
    progress: Arc<NodeProgress>,
    pub(super) failed: Arc<AtomicBool>,
    /// Whether an update was unroutable and the queues have not been declared again since.
    incomplete: Arc<AtomicBool>,
}

impl Link {
    /// Connects, and declares what is missing.
    pub(super) async fn open(with: &Opening, topology: Topology) -> Result<Arc<Self>, LinkError> {
        let connection = with.broker.connect(PURPOSE).await?;
        expect_or_declare(&connection, &topology, &with.database).await?;
        Self::on(connection, with, topology).await
    }

    /// Connects to another node than that of the link in use.
    pub(super) async fn open_apart(
        with: &Opening,
        topology: Topology,
    ) -> Result<Arc<Self>, LinkError> {
        let connection = with.broker.connect_apart(SECOND_PURPOSE, PURPOSE).await?;
        Self::on(connection, with, topology).await
    }

    async fn on(
        connection: Connection,
        with: &Opening,
        topology: Topology,
    ) -> Result<Arc<Self>, LinkError> {
        let channel = connection.create_channel().await?;
        let exchange = LinkExchange::declare(&channel, &topology).await?;
        channel.close(200, "declared".into()).await?;
        let (broker, pending) = (&with.broker, with.pending.clone());
        let channels = channels(connection, pending.clone(), &topology);
        let progress = Arc::new(NodeProgress::default());
        let failed = Arc::new(AtomicBool::new(false));
        let incomplete = Arc::new(AtomicBool::new(false));
        let common = LinkShared {
            channels: channels.clone(),
            exchange: exchange.name.as_str().into(),
            topology,
            pending,
            is_cluster: broker.has_several_hosts(),
            progress: progress.clone(),
            failed: failed.clone(),
            incomplete: incomplete.clone(),
        };
        let lanes = (0..topology.partitions)
            .map(|partition| Lane::start(common.clone(), partition))
            .collect();
        Ok(Arc::new(Self { topology, channels, lanes, exchange, progress, failed, incomplete }))
    }

    /// Publishes a marker to a partition; returns whether it was confirmed by the deadline.
    pub(super) async fn mark(&self, partition: u16, deadline: Instant) -> bool {
        #[expect(clippy::disallowed_methods, reason = "a marker is no update")]
        let id = UpdateId(Uuid::now_v7());
        let (marker, ticket) = ticket::marker(id, deadline);
        self.submit(partition, vec![marker]);
        ticket.confirmed().await.is_ok()
    }

    /// A partition with messages that wait for long, if nothing else was confirmed meanwhile.
    pub(super) fn silent_partition(&self) -> Option<u16> {
        self.progress.silent_partition()
    }

    /// Submits updates to the lane of a partition, in order.
    pub(super) fn submit(&self, partition: u16, updates: Vec<Queued>) {
        // Without a lane they are dropped, and their tickets report it.
        if let Some(lane) = self.lanes.get(usize::from(partition)) {
            lane.submit(updates);
        }
    }

    fn connection(&self) -> &Connection {
        &self.channels.manager().connection
    }

    pub(super) fn is_blocked(&self) -> bool {
        let status = self.connection().status();
        status.connected() && status.blocked()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.connection().status().connected() && !self.failed.load(Ordering::Relaxed)
    }

    /// Why it is given up.
    pub(super) fn why_failed(&self) -> &'static str {
        if self.progress.is_of_the_node(Instant::now()) || self.silent_partition().is_some() {
            "it took no updates: it may have lost the majority of its cluster"
        } else {
            "the connection was given up"
        }
    }

    /// Whether a queue or its binding is missing.
    pub(super) fn is_incomplete(&self) -> bool {
        self.incomplete.load(Ordering::Relaxed)
    }

    /// Declares missing queues again. The link stays in use meanwhile for the other partitions.
    pub(super) async fn complete(self: Arc<Self>, database: Pool) {
        let declaring = async {
            let channel = self.connection().create_channel().await?;
            // Updates returned from now on may have been published after the declaration.
            self.incomplete.store(false, Ordering::Relaxed);
            declare(&self.topology, &channel, &database).await?;
            Ok::<(), DeclareError>(channel.close(200, "declared".into()).await?)
        };
        let failure = match timeout(DECLARE_LIMIT, declaring).await {
            Ok(Ok(())) => {
                tracing::warn!("a queue was missing or unbound: declared it again");
                return;
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "RabbitMQ or the database did not answer in time".to_owned(),
        };
        self.incomplete.store(true, Ordering::Relaxed);
        throttled!(
            warn,
            &failure,
            reason = failure,
            "a queue is missing and can't be declared again"
        );
    }
}

/// The channels of a link, one for each partition at most.
fn channels(
    connection: Connection,
    pending: Arc<PendingRequests>,
    topology: &Topology,
) -> ChannelPool {
    let pool = managed::Pool::builder(Channels { connection, pending });
    let pool = pool.max_size(topology.partitions.into()).build();
    #[expect(clippy::expect_used, reason = "building fails only for timeouts without a runtime")]
    pool.expect("a pool without timeouts can be built")
}

/// Declares the queues, unless the exchanges exist, which they do while updates may be published. So an
/// opening link needs nothing that a stalled node of a cluster or the database could hold up. If a queue is
/// missing, updates are returned, and it is declared then.
async fn expect_or_declare(
    connection: &Connection,
    topology: &Topology,
    database: &Pool,
) -> Result<(), LinkError> {
    let channel = connection.create_channel().await?;
    if topology.expect_exchanges(&channel).await.is_ok() {
        return Ok(channel.close(200, "they exist".into()).await?);
    }
    // RabbitMQ has closed the first channel.
    let channel = connection.create_channel().await?;
    match declare(topology, &channel, database).await {
        Ok(()) => Ok(channel.close(200, "declared".into()).await?),
        Err(DeclareError::Changed) => Err(LinkError::Changing),
        Err(DeclareError::Broker(error)) => Err(error.into()),
        // It is unknown whether the queues may be declared.
        Err(error @ (DeclareError::Database(_) | DeclareError::Topology(_))) => {
            Err(LinkError::Undeclared(error))
        }
    }
}

/// Declares the queues, if the database says that they may be.
async fn declare(
    topology: &Topology,
    channel: &Channel,
    database: &Pool,
) -> Result<(), DeclareError> {
    match timeout(ACQUIRE_LIMIT, database.acquire()).await {
        Ok(Ok(mut connection)) => topology.declare(channel, &mut connection).await,
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
    }
}
