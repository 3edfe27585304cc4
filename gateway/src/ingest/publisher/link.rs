//! One link with RabbitMQ: a connection to publish on, one to receive replies on, and the exchange that
//! both end with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed;
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer, ExchangeKind,
    options::{
        BasicConsumeOptions, ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use shared::{
    broker::{Broker, ConnectError},
    message::ReplyMessage,
    supervise,
    telemetry::chain,
    throttled,
    topology::{DeclareError, Topology},
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    channels::{ChannelPool, Channels},
    lane::{Lane, LinkShared, Queued},
};
use crate::{ingest::pending::PendingRequests, store::pools::Pool};

/// Time for a connection to the database.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);
/// Time for declaring what is missing.
const DECLARE_LIMIT: Duration = Duration::from_secs(30);
/// Time for deleting an exchange.
const FENCE_LIMIT: Duration = Duration::from_secs(5);
/// Maximum length of the reply queue. Clients whose replies are dropped get 202 and find the receipt.
const REPLY_QUEUE_LENGTH: i32 = 10_000;
/// Milliseconds after which no request waits for a reply.
const REPLY_TTL: i32 = 30_000;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not answer in time")]
    Silent,
    #[error("the number of partitions is being changed")]
    Changing,
}

/// One connection to publish on, with a lane for each partition, and another one to receive on.
pub(super) struct Link {
    pub(super) topology: Topology,
    channels: ChannelPool,
    lanes: Vec<Lane>,
    /// The exchange that only this link publishes to.
    pub(super) exchange: String,
    pub(super) failed: Arc<AtomicBool>,
    /// Whether an update was unroutable and the queues have not been declared again since.
    incomplete: Arc<AtomicBool>,
    _receiving: AbortOnDropHandle<()>,
}

impl Link {
    /// Connects and declares all that is needed.
    pub(super) async fn open(
        broker: &Broker,
        database: &Pool,
        topology: Topology,
        pending: Arc<PendingRequests>,
    ) -> Result<Arc<Self>, LinkError> {
        let publishing = broker.connect("gateway: updates").await?;
        let channel = publishing.create_channel().await?;
        match declare(&topology, &channel, database).await {
            Ok(()) => {}
            Err(DeclareError::Changed) => return Err(LinkError::Changing),
            Err(DeclareError::Broker(error)) => return Err(error.into()),
            // It is unknown whether the queues may be declared, so they must exist already.
            Err(DeclareError::Database(_) | DeclareError::Topology(_)) => {
                topology.expect_exchanges(&channel).await?;
            }
        }

        let receiving = broker.connect("gateway: replies").await?;
        let (replies, reply_queue) = consume_replies(&receiving).await?;
        // Named after the queue, whose name RabbitMQ made up.
        let exchange = format!("sdb.gateway.{reply_queue}");
        declare_own_exchange(&channel, &exchange, &topology).await?;
        channel.close(200, "declared".into()).await?;

        let channels = channels(publishing, &topology);
        let failed = Arc::new(AtomicBool::new(false));
        let failing = failed.clone();
        let receiving = supervise::spawn("replies", async move {
            // The connection lives as long as the task.
            let _connection = receiving;
            receive(replies, &pending).await;
            failing.store(true, Ordering::Relaxed);
        });
        let _receiving = AbortOnDropHandle::new(receiving);
        let incomplete = Arc::new(AtomicBool::new(false));
        let common = LinkShared {
            channels: channels.clone(),
            exchange: exchange.as_str().into(),
            reply_queue: reply_queue.into(),
            wire: topology.wire,
            failed: failed.clone(),
            incomplete: incomplete.clone(),
        };
        let keys = (0..topology.partitions).map(|partition| topology.routing_key(partition));
        let lanes = keys.map(|key| Lane::start(common.clone(), key)).collect();
        Ok(Arc::new(Self { topology, channels, lanes, exchange, failed, incomplete, _receiving }))
    }

    /// Submits updates to the lane of a partition, in order.
    pub(super) fn submit(&self, partition: u16, updates: Vec<Queued>) {
        // Without a lane they are dropped, and their tickets report it.
        if let Some(lane) = self.lanes.get(usize::from(partition)) {
            lane.submit(updates);
        }
    }

    fn connection(&self) -> &Connection {
        &self.channels.manager().0
    }

    pub(super) fn is_blocked(&self) -> bool {
        let status = self.connection().status();
        status.connected() && status.blocked()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.connection().status().connected() && !self.failed.load(Ordering::Relaxed)
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
fn channels(publishing: Connection, topology: &Topology) -> ChannelPool {
    let pool = managed::Pool::builder(Channels(publishing));
    let pool = pool.max_size(topology.partitions.into()).build();
    #[expect(clippy::expect_used, reason = "building fails only for timeouts without a runtime")]
    pool.expect("a pool without timeouts can be built")
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

/// Declares the exchange of a link, which is bound to the exchange of updates. It is deleted
/// automatically with that exchange, or when RabbitMQ restarts.
async fn declare_own_exchange(
    channel: &Channel,
    exchange: &str,
    topology: &Topology,
) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    let none = FieldTable::default;
    channel.exchange_declare(exchange.into(), ExchangeKind::Fanout, options, none()).await?;
    let options = ExchangeBindOptions::default();
    let updates = topology.publish_exchange();
    channel.exchange_bind(updates.into(), exchange.into(), "".into(), options, none()).await
}

/// Deletes the exchange of a link: what the link has sent and RabbitMQ has not read yet is refused.
pub(super) async fn fence(broker: &Broker, exchange: &str) -> Result<(), LinkError> {
    let connection = broker.connect("gateway: fence").await?;
    let fencing = async {
        let channel = connection.create_channel().await?;
        channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
        connection.close(200, "done".into()).await
    };
    Ok(timeout(FENCE_LIMIT, fencing).await.map_err(|_| LinkError::Silent)??)
}

/// The exclusive reply queue of this gateway. It is deleted when the gateway disconnects.
async fn consume_replies(connection: &Connection) -> Result<(Consumer, String), lapin::Error> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(REPLY_QUEUE_LENGTH));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(REPLY_TTL));
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), own, arguments).await?;
    let name = queue.name().as_str().to_owned();
    let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..Default::default() };
    let consumer = channel
        .basic_consume(name.as_str().into(), "".into(), options, FieldTable::default())
        .await?;
    Ok((consumer, name))
}

/// Delivers replies to pending requests until the connection ends.
async fn receive(mut replies: Consumer, pending: &Arc<PendingRequests>) {
    while let Some(Ok(delivery)) = replies.next().await {
        match ReplyMessage::decode(&delivery.data) {
            // Not awaited here: the next reply need not wait for this one's incidents.
            Ok((reply, left_out)) => {
                if left_out > 0 {
                    let line = "results of a newer worker can't be read: those requests get 202";
                    throttled!(warn, "", left_out, "{line}");
                }
                let pending = pending.clone();
                tokio::spawn(async move { pending.deliver(reply.results).await });
            }
            // Sent by a worker of another version: the pending request gets 202 and finds the receipt.
            Err(error) => {
                let reason = chain(&error);
                throttled!(warn, &reason, reason, "a reply can't be read");
            }
        }
    }
}
