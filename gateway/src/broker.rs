//! Publishes updates to RabbitMQ and receives the workers' replies.
//!
//! A [`Link`] is one connection to publish on with a pool of channels in confirm mode, and another
//! one to receive on. When either fails, both are given up and a new link is made; nothing is ever
//! sent again by the link itself.
//!
//! What a given-up link has sent may still lie unread in a socket: RabbitMQ stops reading while it is
//! short of memory, for minutes. So that it is not queued that much later, each link publishes
//! through an exchange of its own, which is deleted before the next link is made.

use std::{
    pin::Pin,
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
    BasicProperties, Channel, Confirmation, Connection, Consumer, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeBindOptions,
        ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use shared::{
    broker::{Broker, ConnectError},
    component::ComponentId,
    message::{ReplyMessage, UpdateMessage},
    metrics::{COMMON, Server},
    seldom,
    telemetry::chain,
    topology::{DeclareError, Phase, Recorded, Topology, TopologyError},
    traces,
};
use sqlx::PgPool;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use crate::waiters::Waiters;

/// Time for a confirmation after its request was answered 503, before the link counts as broken.
const UNCONFIRMED_LIMIT: Duration = Duration::from_secs(5);
/// How often the recorded topology is read.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Time for reading it.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Time for deleting an exchange.
const FENCE_LIMIT: Duration = Duration::from_secs(5);
/// Time for doing so at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
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
    /// The client's time was over before its turn came: it was not sent.
    #[error("there was no time left to send it")]
    Late,
    /// The queue is full: it was refused.
    #[error("the queue is full")]
    Full,
    /// The shape of the queues is being changed: it was not sent.
    #[error("the number of partitions is being changed")]
    Changing,
    /// It was sent, but not confirmed in time, or the connection broke before: it may have been
    /// accepted or not.
    #[error("RabbitMQ did not confirm in time")]
    Unconfirmed,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not answer in time")]
    Silent,
    #[error("the number of partitions is being changed")]
    Changing,
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
    /// What this link alone publishes to.
    exchange: String,
    reply_queue: String,
    failed: Arc<AtomicBool>,
    _receiving: AbortOnDropHandle<()>,
}

impl Link {
    /// Publishes and waits for the confirmation, unless its turn comes after the deadline.
    async fn send(
        self: Arc<Self>,
        key: String,
        body: Vec<u8>,
        properties: BasicProperties,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let confirm = {
            // The channel is held while the publish is issued, not while it is confirmed.
            let channel = self.channels.get().await.map_err(|_| PublishError::Absent)?;
            if Instant::now() >= deadline {
                return Err(PublishError::Late);
            }
            let options = BasicPublishOptions::default();
            let exchange = self.exchange.as_str().into();
            channel.basic_publish(exchange, key.into(), options, &body, properties).await
        };
        let confirmation = match confirm {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        match confirmation {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Nack(_)) => Err(PublishError::Full),
            Ok(Confirmation::Ack(Some(_)) | Confirmation::NotRequested) | Err(_) => {
                // Not what was declared, or not there any more: declare it again.
                self.failed.store(true, Ordering::Relaxed);
                Err(PublishError::Unconfirmed)
            }
        }
    }

    fn is_blocked(&self) -> bool {
        let status = self.channels.manager().0.status();
        status.connected() && status.blocked()
    }

    fn is_alive(&self) -> bool {
        self.channels.manager().0.status().connected() && !self.failed.load(Ordering::Relaxed)
    }
}

/// A publish under way. Dropped before it has ended, since its client has gone or waits no longer, it
/// goes on by itself: lapin would keep what it knows of a confirmation that nobody waits for.
struct Sending<F: Future<Output = Result<(), PublishError>> + Send + 'static> {
    sending: Option<Pin<Box<F>>>,
    /// Of its link.
    failed: Arc<AtomicBool>,
}

impl<F: Future<Output = Result<(), PublishError>> + Send + 'static> Sending<F> {
    async fn until(mut self, deadline: Instant) -> Result<(), PublishError> {
        let Some(sending) = &mut self.sending else { return Err(PublishError::Unconfirmed) };
        let sent = timeout_at(deadline, sending).await;
        if sent.is_ok() {
            self.sending = None;
        }
        sent.unwrap_or(Err(PublishError::Unconfirmed))
    }
}

impl<F: Future<Output = Result<(), PublishError>> + Send + 'static> Drop for Sending<F> {
    fn drop(&mut self) {
        let Some(sending) = self.sending.take() else { return };
        let failed = self.failed.clone();
        // Without a runtime the process ends, and its connections with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if timeout(UNCONFIRMED_LIMIT, sending).await.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
            });
        }
    }
}

/// The gateway's side of RabbitMQ.
pub(crate) struct Publisher {
    link: ArcSwapOption<Link>,
    waiters: Arc<Waiters>,
    /// Channels to publish on.
    channels: usize,
    /// Whether there is no link because the shape of the queues is being changed.
    changing: AtomicBool,
}

/// What the broker is like for those who would publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerState {
    Ready,
    Blocked,
    /// The shape of the queues is being changed.
    Changing,
    Absent,
}

impl Publisher {
    pub(crate) fn new(waiters: Arc<Waiters>, channels: usize) -> Self {
        Self { link: ArcSwapOption::empty(), waiters, channels, changing: AtomicBool::new(false) }
    }

    pub(crate) fn state(&self) -> BrokerState {
        match self.link.load().as_ref() {
            Some(link) if link.is_blocked() => BrokerState::Blocked,
            Some(link) if link.is_alive() => BrokerState::Ready,
            Some(_) | None if self.changing.load(Ordering::Relaxed) => BrokerState::Changing,
            Some(_) | None => BrokerState::Absent,
        }
    }

    /// The partition of a component; without a link any, as nothing is published then.
    pub(crate) fn partition(&self, component: ComponentId) -> u16 {
        self.link.load().as_ref().map_or(0, |link| component.partition(link.topology.partitions))
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
        let link = match (self.state(), self.link.load_full()) {
            (BrokerState::Ready, Some(link)) => link,
            (BrokerState::Blocked, _) => return Err(PublishError::Blocked),
            (BrokerState::Changing, _) => return Err(PublishError::Changing),
            (BrokerState::Ready | BrokerState::Absent, _) => return Err(PublishError::Absent),
        };
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
        let publishing =
            traces::get().map(|traces| traces.publish(&link.topology.exchange(), &key, update.id));
        if let Some(publishing) = &publishing {
            properties = properties.with_headers(publishing.headers());
        }

        let failed = link.failed.clone();
        let sending = Box::pin(link.send(key, body, properties, deadline));
        let sent = Sending { sending: Some(sending), failed }.until(deadline).await;
        if let Some(publishing) = publishing {
            publishing.end(sent.as_ref().err().map(|error| format!("{error:?}")));
        }
        sent
    }

    /// Keeps a link for as long as the gateway runs, with the topology that the database records.
    pub(crate) async fn keep_linked(
        self: Arc<Self>,
        broker: Broker,
        database: PgPool,
        recorded: Recorded,
    ) {
        let (sender, mut recorded) = watch::channel(recorded);
        let _following = AbortOnDropHandle::new(tokio::spawn(follow(database.clone(), sender)));
        let (mut said, mut linked_before) = (String::new(), false);
        loop {
            let now = *recorded.borrow_and_update();
            let linked = match now.phase {
                Phase::Open => {
                    let linking = self.link(&broker, &database, now.topology);
                    timeout(CONNECT_LIMIT, linking).await.unwrap_or(Err(LinkError::Silent))
                }
                Phase::Draining | Phase::Closed => Err(LinkError::Changing),
            };
            self.changing.store(matches!(linked, Err(LinkError::Changing)), Ordering::Relaxed);
            match linked {
                Ok(link) => {
                    said.clear();
                    if std::mem::replace(&mut linked_before, true) {
                        COMMON.reconnects.of(Server::Rabbitmq).inc();
                    }
                    tracing::info!(topology = now.topology.version, "connected to RabbitMQ");
                    self.waiters.replies_go_elsewhere();
                    self.link.store(Some(link.clone()));
                    self.watch(&link, &mut recorded).await;
                    self.give_up(&link, &broker).await;
                }
                Err(error) => {
                    let reason = chain(&error);
                    if reason != said {
                        tracing::warn!(reason, "no updates are taken: trying again");
                        said = reason;
                    }
                }
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Ends the link, so that nothing of it stays behind in RabbitMQ.
    pub(crate) async fn close(&self, broker: &Broker) {
        if let Some(link) = self.link.swap(None)
            && let Ok(Err(error)) = timeout(CLOSE_LIMIT, fence(broker, &link.exchange)).await
        {
            tracing::debug!(reason = chain(&error), "the exchange of this gateway stays behind");
        }
    }

    /// Waits until the link fails, or is not the recorded topology's any more.
    async fn watch(&self, link: &Link, recorded: &mut watch::Receiver<Recorded>) {
        let expected = Recorded { topology: link.topology, phase: Phase::Open };
        let mut blocked = false;
        while link.is_alive() {
            match (std::mem::replace(&mut blocked, link.is_blocked()), blocked) {
                (false, true) => {
                    tracing::warn!("RabbitMQ is short of memory or disk: updates get 503");
                }
                (true, false) => tracing::info!("RabbitMQ takes updates again"),
                (true, true) | (false, false) => {}
            }
            if *recorded.borrow() != expected {
                self.changing.store(true, Ordering::Relaxed);
                link.failed.store(true, Ordering::Relaxed);
                tracing::info!("the shape of the queues is being changed: updates get 503");
                return;
            }
            sleep(LOOK_EVERY).await;
        }
        tracing::warn!("the connection to RabbitMQ is given up");
    }

    /// Makes sure that nothing which the link has sent is queued from now on; tries until it can
    /// be done, as RabbitMQ must be reached for the next link anyway.
    async fn give_up(&self, link: &Link, broker: &Broker) {
        while let Err(error) = fence(broker, &link.exchange).await {
            tracing::debug!(reason = chain(&error), "the exchange can't be deleted: trying again");
            sleep(RECONNECT_PAUSE).await;
        }
        // A new connection would not know that RabbitMQ takes nothing before it has sent something.
        while link.is_blocked() {
            sleep(LOOK_EVERY).await;
        }
        self.link.store(None);
    }

    async fn link(
        self: &Arc<Self>,
        broker: &Broker,
        database: &PgPool,
        topology: Topology,
    ) -> Result<Arc<Link>, LinkError> {
        let publishing = broker.connect("gateway: updates").await?;
        let channel = publishing.create_channel().await?;
        declare(topology, &channel, database).await?;

        let receiving = broker.connect("gateway: replies").await?;
        let (replies, reply_queue) = consume_replies(&receiving).await?;
        // Named after the queue, whose name RabbitMQ made up.
        let exchange = format!("sdb.gateway.{reply_queue}");
        declare_own_exchange(&channel, &exchange, &topology).await?;
        channel.close(200, "declared".into()).await?;

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
        Ok(Arc::new(Link { topology, channels, exchange, reply_queue, failed, _receiving }))
    }
}

/// Follows the recorded topology. While the database is away, the last one counts.
async fn follow(database: PgPool, recorded: watch::Sender<Recorded>) {
    loop {
        sleep(FOLLOW_EVERY).await;
        let reading = async {
            let mut connection = database.acquire().await?;
            Recorded::read(&mut connection).await
        };
        match timeout(READ_LIMIT, reading).await {
            Ok(Ok(now)) => {
                recorded.send_replace(now);
            }
            Ok(Err(error @ TopologyError::Detached)) => {
                let reason = chain(&error);
                seldom!(warn, &reason, reason, "lists may not show what changes");
            }
            Ok(Err(error)) => tracing::debug!(reason = chain(&error), "the topology can't be read"),
            Err(_) => tracing::debug!("the topology can't be read in time"),
        }
    }
}

/// Declares the queues. While the database is away they must stand already: nobody could tell whether
/// they may be made.
async fn declare(
    topology: Topology,
    channel: &Channel,
    database: &PgPool,
) -> Result<(), LinkError> {
    let connected = timeout(READ_LIMIT, database.acquire()).await;
    let declared = match connected {
        Ok(Ok(mut connection)) => topology.declare(channel, &mut connection).await,
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
    };
    match declared {
        Ok(()) => Ok(()),
        Err(DeclareError::Changed) => Err(LinkError::Changing),
        Err(DeclareError::Broker(error)) => Err(error.into()),
        Err(DeclareError::Database(_) | DeclareError::Topology(_)) => {
            Ok(topology.expect_exchange(channel).await?)
        }
    }
}

/// Declares the exchange of a link, which passes all on to that of the updates. It goes by itself with
/// that, or with RabbitMQ.
async fn declare_own_exchange(
    channel: &Channel,
    exchange: &str,
    topology: &Topology,
) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    let none = FieldTable::default;
    channel.exchange_declare(exchange.into(), ExchangeKind::Fanout, options, none()).await?;
    let options = ExchangeBindOptions::default();
    let updates = topology.exchange();
    channel.exchange_bind(updates.into(), exchange.into(), "".into(), options, none()).await
}

/// Deletes the exchange of a link: what the link has sent and RabbitMQ has not read yet is refused.
async fn fence(broker: &Broker, exchange: &str) -> Result<(), LinkError> {
    let connection = broker.connect("gateway: fence").await?;
    let fencing = async {
        let channel = connection.create_channel().await?;
        channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
        connection.close(200, "done".into()).await
    };
    Ok(timeout(FENCE_LIMIT, fencing).await.map_err(|_| LinkError::Silent)??)
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
            Ok((reply, left_out)) => {
                if left_out > 0 {
                    let line = "results of a newer worker can't be read: those requests get 202";
                    seldom!(warn, "", left_out, "{line}");
                }
                let waiters = waiters.clone();
                tokio::spawn(async move { waiters.settle(reply.results).await });
            }
            // A worker of another version: whoever waits gets 202 and finds the receipt.
            Err(error) => {
                let reason = chain(&error);
                seldom!(warn, &reason, reason, "a reply can't be read");
            }
        }
    }
}
