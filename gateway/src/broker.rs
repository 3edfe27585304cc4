//! Publishes updates to RabbitMQ and receives the workers' replies.
//!
//! A [`Link`] is one connection to publish on with a pool of channels in confirm mode, and another
//! one to receive on. When either fails, both are given up and a new link is made; nothing is ever
//! sent again by the link itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use shared::{
    broker::{Broker, ConnectError},
    message::{ReplyMessage, UpdateMessage},
    telemetry::chain,
    topology::Topology,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::waiters::Waiters;

const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Time for a link to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How often the link is looked at: a connection that broke while nothing was sent.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Replies that wait for the gateway. Whoever waited is answered from the receipt then.
const REPLY_QUEUE_LENGTH: i32 = 10_000;
/// Milliseconds after which nobody waits for a reply any more.
const REPLY_TTL: i32 = 30_000;
const PERSISTENT: u8 = 2;

/// Why an update was not accepted, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// There is no connection: it was not sent.
    #[error("RabbitMQ can't be reached")]
    Absent,
    /// RabbitMQ is short of memory or disk and takes nothing: it was not sent.
    #[error("RabbitMQ takes no updates now: it is short of memory or disk")]
    Blocked,
    /// The queue is full: it was refused.
    #[error("the queue is full")]
    Full,
    /// It was sent, but not confirmed in time, or the connection broke before: it may have been
    /// accepted or not.
    #[error("RabbitMQ did not confirm in time")]
    Unconfirmed,
}

/// A pool's way to make channels.
struct Channels(Connection);

impl managed::Manager for Channels {
    type Type = Channel;
    type Error = lapin::Error;

    async fn create(&self) -> Result<Channel, lapin::Error> {
        let channel = self.0.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    async fn recycle(&self, channel: &mut Channel, _: &Metrics) -> RecycleResult<lapin::Error> {
        if channel.status().connected() {
            Ok(())
        } else {
            Err(RecycleError::message("the channel is closed"))
        }
    }
}

struct Link {
    topology: Topology,
    channels: managed::Pool<Channels>,
    reply_queue: String,
    failed: Arc<AtomicBool>,
    _receiving: AbortOnDropHandle<()>,
}

impl Link {
    fn is_blocked(&self) -> bool {
        self.channels.manager().0.status().blocked()
    }

    fn is_alive(&self) -> bool {
        self.channels.manager().0.status().connected() && !self.failed.load(Ordering::Relaxed)
    }
}

/// The gateway's side of RabbitMQ.
pub(crate) struct Publisher {
    link: ArcSwapOption<Link>,
    waiters: Arc<Waiters>,
    /// Channels to publish on.
    channels: usize,
}

/// What the broker is like for those who would publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerState {
    Ready,
    Blocked,
    Absent,
}

impl Publisher {
    pub(crate) fn new(waiters: Arc<Waiters>, channels: usize) -> Self {
        Self { link: ArcSwapOption::empty(), waiters, channels }
    }

    pub(crate) fn state(&self) -> BrokerState {
        match self.link.load().as_ref() {
            Some(link) if !link.is_alive() => BrokerState::Absent,
            Some(link) if link.is_blocked() => BrokerState::Blocked,
            Some(_) => BrokerState::Ready,
            None => BrokerState::Absent,
        }
    }

    /// Publishes an update and waits for RabbitMQ's confirmation: then it is on disk.
    ///
    /// With `wants_reply` the worker is told where to send the outcome.
    pub(crate) async fn publish(
        &self,
        update: &UpdateMessage,
        wants_reply: bool,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let link =
            self.link.load_full().filter(|link| link.is_alive()).ok_or(PublishError::Absent)?;
        if link.is_blocked() {
            return Err(PublishError::Blocked);
        }
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_type("status-update".into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(update.id.to_string().into());
        if wants_reply {
            properties = properties.with_reply_to(link.reply_queue.clone().into());
        }
        let partition = update.component.id.partition(link.topology.partitions);
        let key = link.topology.routing_key(partition);
        let body = update.encode();

        // The channel is held while the publish is issued, not while it is confirmed.
        let issue = async {
            let channel = link.channels.get().await.map_err(|_| PublishError::Absent)?;
            let options = BasicPublishOptions::default();
            channel
                .basic_publish(
                    link.topology.exchange().into(),
                    key.into(),
                    options,
                    &body,
                    properties,
                )
                .await
                .map_err(|_| PublishError::Unconfirmed)
        };
        let mut confirm =
            timeout_at(deadline, issue).await.map_err(|_| PublishError::Unconfirmed)??;
        match timeout_at(deadline, &mut confirm).await {
            Ok(Ok(Confirmation::Ack(None))) => Ok(()),
            Ok(Ok(Confirmation::Nack(_))) => Err(PublishError::Full),
            Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::NotRequested) | Err(_)) => {
                // Not what was declared: declare it again.
                link.failed.store(true, Ordering::Relaxed);
                Err(PublishError::Unconfirmed)
            }
            Err(_) => {
                // lapin keeps a confirm that is dropped before it came, for good.
                tokio::spawn(confirm);
                Err(PublishError::Unconfirmed)
            }
        }
    }

    /// Keeps a link for as long as the gateway runs.
    pub(crate) async fn keep_linked(self: Arc<Self>, broker: Broker, topology: Topology) {
        let mut failing = false;
        loop {
            let connected = timeout(CONNECT_LIMIT, self.connect(&broker, topology)).await;
            match connected.unwrap_or(Err(ConnectError::Silent)) {
                Ok(link) => {
                    failing = false;
                    tracing::info!("connected to RabbitMQ");
                    self.link.store(Some(link.clone()));
                    let mut blocked = false;
                    while link.is_alive() {
                        match (std::mem::replace(&mut blocked, link.is_blocked()), blocked) {
                            (false, true) => tracing::warn!(
                                "RabbitMQ is short of memory or disk: updates get 503"
                            ),
                            (true, false) => tracing::info!("RabbitMQ takes updates again"),
                            (true, true) | (false, false) => {}
                        }
                        sleep(LOOK_EVERY).await;
                    }
                    self.link.store(None);
                    tracing::warn!("the connection to RabbitMQ is lost: connecting again");
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(
                        reason = chain(&error),
                        "no connection to RabbitMQ: trying again"
                    );
                }
                Err(_) => {}
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn connect(
        self: &Arc<Self>,
        broker: &Broker,
        topology: Topology,
    ) -> Result<Arc<Link>, ConnectError> {
        let refused = ConnectError::Refused;
        let publishing = broker.connect("gateway: updates").await?;
        let channel = publishing.create_channel().await.map_err(refused)?;
        topology.declare(&channel).await.map_err(refused)?;
        channel.close(200, "declared".into()).await.map_err(refused)?;

        let receiving = broker.connect("gateway: replies").await?;
        let (replies, reply_queue) = consume_replies(&receiving).await.map_err(refused)?;
        let channels = managed::Pool::builder(Channels(publishing)).max_size(self.channels).build();
        #[expect(
            clippy::expect_used,
            reason = "building fails only for timeouts without a runtime"
        )]
        let channels = channels.expect("a pool without timeouts can be built");
        let failed = Arc::new(AtomicBool::new(false));
        let (waiters, failing) = (self.waiters.clone(), failed.clone());
        let receiving = tokio::spawn(async move {
            // The connection lives as long as the task.
            let _connection = receiving;
            receive(replies, &waiters).await;
            failing.store(true, Ordering::Relaxed);
        });
        let _receiving = AbortOnDropHandle::new(receiving);
        Ok(Arc::new(Link { topology, channels, reply_queue, failed, _receiving }))
    }
}

/// A queue of this gateway's own for replies. It goes when the gateway does.
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

/// Hands replies to those who wait, until the connection ends.
async fn receive(mut replies: Consumer, waiters: &Arc<Waiters>) {
    while let Some(Ok(delivery)) = replies.next().await {
        match ReplyMessage::decode(&delivery.data) {
            // Not awaited here: the next reply need not wait for this one's incidents.
            Ok(reply) => {
                let waiters = waiters.clone();
                tokio::spawn(async move { waiters.settle(reply.results).await });
            }
            // A worker of another version: whoever waits gets 202 and finds the receipt.
            Err(error) => tracing::warn!(reason = chain(&error), "a reply can't be read"),
        }
    }
}
