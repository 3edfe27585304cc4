//! Publishes updates to RabbitMQ and receives the workers' replies.
//!
//! A [`Link`] is one connection to publish on with a pool of channels in confirm mode, and another
//! one to receive on. When either fails, both are given up and a new link is made; nothing is ever
//! sent again by the link itself. An update that no queue takes comes back ([`confirms`]): it is
//! answered 503, and the link declares again what is missing.
//!
//! What a given-up link has sent may still lie unread in a socket: RabbitMQ stops reading while it is
//! short of memory, for minutes. So that it is not queued that much later, each link publishes
//! through an exchange of its own, which is deleted before the next link is made.

mod confirms;
mod link;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use lapin::BasicProperties;
use shared::{
    broker::Broker,
    component::ComponentId,
    message::UpdateMessage,
    metrics::{COMMON, Server},
    supervise,
    telemetry::chain,
    throttled,
    topology::{Phase, Recorded, TopologyError},
    traces,
};
use sqlx::PgPool;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use self::link::{Link, LinkError, fence};
use super::pending::Waiters;

/// Time for a confirmation after its request was answered 503, before the link counts as broken.
const UNCONFIRMED_LIMIT: Duration = Duration::from_secs(5);
/// How often the recorded topology is read.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Time for reading it.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Time for doing so at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Time for a link to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How often the link is looked at: a connection that broke while nothing was sent.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two declarations of queues that are missing.
const COMPLETE_EVERY: Duration = Duration::from_secs(1);
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
    /// It was refused. RabbitMQ does not say why: the queue is full, or no member of it can take it.
    #[error("RabbitMQ refused it: the queue is full or not available")]
    Full,
    /// The shape of the queues is being changed: it was not sent.
    #[error("the number of partitions is being changed")]
    Changing,
    /// No queue takes it: it was returned.
    #[error("a queue is missing and is being declared again")]
    NoQueue,
    /// It was sent, but not confirmed in time, or the connection broke before: it may have been
    /// accepted or not.
    #[error("RabbitMQ did not confirm in time")]
    Unconfirmed,
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
    /// A queue is missing; the others take updates.
    Incomplete,
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
            Some(link) if link.is_alive() && link.is_incomplete() => BrokerState::Incomplete,
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
    async fn publish(
        &self,
        update: &UpdateMessage,
        wants_reply: bool,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let link = match (self.state(), self.link.load_full()) {
            (BrokerState::Ready | BrokerState::Incomplete, Some(link)) => link,
            (BrokerState::Blocked, _) => return Err(PublishError::Blocked),
            (BrokerState::Changing, _) => return Err(PublishError::Changing),
            (BrokerState::Ready | BrokerState::Incomplete | BrokerState::Absent, _) => {
                return Err(PublishError::Absent);
            }
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
        let sending = Box::pin(link.send(update.id, key, body, properties, deadline));
        let sent = Sending { sending: Some(sending), failed }.until(deadline).await;
        if let Some(publishing) = publishing {
            publishing.end(sent.as_ref().err().map(|error| format!("{error:?}")));
        }
        sent
    }

    /// Publishes updates, each with whether the worker is told where to send its outcome, and waits for
    /// RabbitMQ's confirmations. Those of one component are published one after the other, in order.
    pub(crate) async fn publish_all(
        &self,
        updates: &[(UpdateMessage, bool)],
        deadline: Instant,
    ) -> Vec<Result<(), PublishError>> {
        let mut components: HashMap<ComponentId, Vec<(usize, &UpdateMessage, bool)>> =
            HashMap::new();
        for (place, (update, wants_reply)) in updates.iter().enumerate() {
            let of_component = components.entry(update.component.id).or_default();
            of_component.push((place, update, *wants_reply));
        }
        let publishing = components.into_values().map(async |updates| {
            let mut published = Vec::with_capacity(updates.len());
            for (place, update, wants_reply) in updates {
                published.push((place, self.publish(update, wants_reply, deadline).await));
            }
            published
        });
        let mut published: Vec<_> = join_all(publishing).await.into_iter().flatten().collect();
        published.sort_unstable_by_key(|(place, _)| *place);
        published.into_iter().map(|(_, published)| published).collect()
    }

    /// Keeps a link for as long as the gateway runs, with the topology that the database records.
    pub(crate) async fn keep_linked(
        self: Arc<Self>,
        broker: Broker,
        database: PgPool,
        recorded: Recorded,
    ) {
        let (sender, mut recorded) = watch::channel(recorded);
        let _following =
            AbortOnDropHandle::new(supervise::keep("topology", follow(database.clone(), sender)));
        let (mut said, mut linked_before) = (String::new(), false);
        loop {
            let now = *recorded.borrow_and_update();
            let linked = match now.phase {
                Phase::Open => {
                    let (channels, waiters) = (self.channels, self.waiters.clone());
                    let linking = Link::open(&broker, &database, now.topology, channels, waiters);
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
                    self.watch(&link, &database, &mut recorded).await;
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

    /// Waits until the link fails, or is not the recorded topology's any more. Declares again what is
    /// missing.
    async fn watch(
        &self,
        link: &Arc<Link>,
        database: &PgPool,
        recorded: &mut watch::Receiver<Recorded>,
    ) {
        let expected = Recorded { topology: link.topology, phase: Phase::Open };
        let mut blocked = false;
        let mut completing: Option<(Instant, AbortOnDropHandle<()>)> = None;
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
            let is_due = completing.as_ref().is_none_or(|(began, completing)| {
                completing.is_finished() && began.elapsed() > COMPLETE_EVERY
            });
            if link.is_incomplete() && is_due {
                let task = tokio::spawn(link.clone().complete(database.clone()));
                completing = Some((Instant::now(), AbortOnDropHandle::new(task)));
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
                throttled!(warn, &reason, reason, "lists may not show what changes");
            }
            Ok(Err(error @ TopologyError::Standby)) => {
                let reason = chain(&error);
                throttled!(
                    warn,
                    &reason,
                    reason,
                    "the topology can't be read: the last one counts"
                );
            }
            Ok(Err(error)) => tracing::debug!(reason = chain(&error), "the topology can't be read"),
            Err(_) => tracing::debug!("the topology can't be read in time"),
        }
    }
}
