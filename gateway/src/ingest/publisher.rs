//! Publishes updates to RabbitMQ and receives the workers' replies.
//!
//! A [`Link`] is one connection, with a [`lane`] for each partition, whose channel also receives the
//! replies. When the connection fails, a new link is opened, to another node of a cluster if there is one. A
//! link never resends anything; updates that it has not sent are answered 503. An unroutable update is
//! returned ([`confirms`]): it is answered 503, and the link declares the missing queues again.
//!
//! What a closed link has sent may still be unread in a socket: while RabbitMQ is short of memory, it
//! stops reading, possibly for minutes. So that such updates are not queued later, each link publishes
//! through its own exchange ([`exchange`]), which is deleted before the next link is used. While a node of
//! a cluster stalls, no exchange can be declared or deleted: the next link was opened ahead then ([`second_link`]),
//! and the deletion goes on meanwhile.

mod broker_state;
mod channels;
mod closing;
mod confirms;
mod envelope_limits;
mod exchange;
mod lane;
mod link;
mod link_shared;
mod node_progress;
mod outgoing;
mod second_link;
mod ticket;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use shared::{
    amqp::{
        broker::Broker,
        topology::{Phase, Recorded, Topology, TopologyError},
    },
    domain::component::ComponentId,
    http::servers_report::ServersReport,
    process::supervise,
    telemetry::{
        chain,
        metrics::{COMMON, Server},
        traces::{self, Publishing},
    },
    throttled,
    wire::{envelope::Entry, message::UpdateMessage},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::broker_state::{BrokerState, PublishError};
use self::{
    exchange::{FenceError, Later, LinkExchange, RETRY_PAUSE, delete_all},
    link::{LOOK_EVERY, Link, LinkError, OPEN_LIMIT, Opening, PURPOSE, SECOND_PURPOSE},
    second_link::SecondLink,
    ticket::Queued,
};
use super::pending::PendingRequests;
use crate::store::pools::Pool;

/// How often the recorded topology is read.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Time for reading it.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Time for deleting the exchanges at shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Pause between two declarations of missing queues.
const COMPLETE_EVERY: Duration = Duration::from_secs(1);

/// The gateway's side of RabbitMQ.
pub(crate) struct Publisher {
    broker: Broker,
    link: ArcSwapOption<Link>,
    second: Arc<SecondLink>,
    pending: Arc<PendingRequests>,
    /// Whether there is no link because the topology is being changed.
    changing: AtomicBool,
}

impl Publisher {
    pub(crate) fn new(broker: Broker, pending: Arc<PendingRequests>) -> Self {
        let changing = AtomicBool::new(false);
        Self { broker, link: ArcSwapOption::empty(), second: Arc::default(), pending, changing }
    }

    /// The node of RabbitMQ that is in use, and why others are not.
    pub(crate) fn servers(&self) -> ServersReport {
        self.broker.report(PURPOSE)
    }

    pub(crate) fn state(&self) -> BrokerState {
        match self.link() {
            Ok(link) if link.is_incomplete() => BrokerState::Incomplete,
            Ok(link) if link.silent_partition().is_some() => BrokerState::Silent,
            Ok(_) => BrokerState::Ready,
            Err(PublishError::Blocked) => BrokerState::Blocked,
            Err(PublishError::Changing) => BrokerState::Changing,
            Err(_) => BrokerState::Absent,
        }
    }

    /// The partition of a component. Without a link it is always 0, because nothing is published.
    pub(crate) fn partition(&self, component: ComponentId) -> u16 {
        self.link.load().as_ref().map_or(0, |link| component.partition(link.topology.partitions))
    }

    /// The newest version of messages that may be published; none without a link.
    pub(crate) fn wire(&self) -> Option<u16> {
        self.link.load().as_ref().map(|link| link.topology.wire)
    }

    /// Publishes updates, each with or without a request for its outcome, and waits for RabbitMQ's
    /// confirmations that they are on disk. Those of one partition are published in order, in one message
    /// where they fit. If this is dropped, they are still published.
    pub(crate) async fn publish(
        &self,
        updates: &[(UpdateMessage, bool)],
        deadline: Instant,
    ) -> Vec<Result<(), PublishError>> {
        let link = match self.link() {
            Ok(link) => link,
            Err(error) => return vec![Err(error); updates.len()],
        };
        // They were made for an earlier link, whose version was newer.
        if updates.iter().any(|(update, _)| update.version() > link.topology.wire) {
            return vec![Err(PublishError::Changing); updates.len()];
        }
        let mut partitions: BTreeMap<u16, Vec<Queued>> = BTreeMap::new();
        let mut tickets = Vec::with_capacity(updates.len());
        for (update, wants_reply) in updates {
            let partition = update.component.id.partition(link.topology.partitions);
            let publishing = traces::get().map(|traces| {
                let topology = &link.topology;
                traces.publish(&topology.exchange(), &topology.routing_key(partition), update.id)
            });
            let trace = publishing.as_ref().and_then(Publishing::context);
            let entry = Entry { message: update.encode(), wants_reply: *wants_reply, trace };
            let (queued, ticket) = ticket::queued(update.id, entry, deadline);
            partitions.entry(partition).or_default().push(queued);
            tickets.push((ticket, publishing));
        }
        for (partition, queued) in partitions {
            link.submit(partition, queued);
        }
        // One after the other: a message's updates are confirmed together, and wake this once.
        let mut confirmed = Vec::with_capacity(tickets.len());
        for (ticket, publishing) in tickets {
            let sent = match ticket.confirmed().await {
                Err(PublishError::Absent) if self.state() == BrokerState::Changing => {
                    Err(PublishError::Changing)
                }
                sent => sent,
            };
            if let Some(publishing) = publishing {
                publishing.end(sent.err().map(|error| format!("{error:?}")));
            }
            confirmed.push(sent);
        }
        confirmed
    }

    /// The link, if it accepts updates.
    fn link(&self) -> Result<Arc<Link>, PublishError> {
        match self.link.load_full() {
            Some(link) if link.is_blocked() => Err(PublishError::Blocked),
            Some(link) if link.is_alive() => Ok(link),
            Some(_) | None if self.changing.load(Ordering::Relaxed) => Err(PublishError::Changing),
            Some(_) | None => Err(PublishError::Absent),
        }
    }

    /// Keeps a link open while the gateway runs, with the topology recorded in the database.
    pub(crate) async fn keep_linked(self: Arc<Self>, database: Pool, recorded: Recorded) {
        let (sender, mut recorded) = watch::channel(recorded);
        let _following =
            AbortOnDropHandle::new(supervise::keep("topology", follow(database.clone(), sender)));
        let (later, _deleting) = Later::start(self.broker.clone());
        let (broker, pending) = (self.broker.clone(), self.pending.clone());
        let with = Opening { broker, database: database.clone(), pending };
        let (mut said, mut linked_before) = (String::new(), false);
        loop {
            let now = *recorded.borrow_and_update();
            let linked = match now.phase {
                Phase::Open => self.next_link(&with, now.topology, &later).await,
                Phase::Draining | Phase::Closed => {
                    self.second.discard(&later);
                    Err(LinkError::Changing)
                }
            };
            self.changing.store(matches!(linked, Err(LinkError::Changing)), Ordering::Relaxed);
            match linked {
                Ok(link) => {
                    said.clear();
                    if std::mem::replace(&mut linked_before, true) {
                        COMMON.reconnects.of(Server::Rabbitmq).inc();
                    }
                    let host = self.servers().server;
                    tracing::info!(topology = now.topology.version, host, "connected to RabbitMQ");
                    self.pending.link_replaced();
                    self.link.store(Some(link.clone()));
                    let second = self.second.keep(with.clone(), now.topology, later.clone());
                    self.watch(&link, &database, &mut recorded).await;
                    self.give_up(&link, &later).await;
                    drop(second);
                    if self.second.is_ready() {
                        continue;
                    }
                }
                Err(error) => {
                    let reason = chain(&error);
                    if reason != said {
                        tracing::warn!(reason, "can't publish, trying again");
                        said = reason;
                    }
                }
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// The link that was opened ahead, if it can be used; otherwise another one.
    async fn next_link(
        &self,
        with: &Opening,
        topology: Topology,
        later: &Later,
    ) -> Result<Arc<Link>, LinkError> {
        match self.second.take() {
            Some(ahead) if ahead.is_alive() && ahead.topology == topology => {
                self.broker.reuse(SECOND_PURPOSE, PURPOSE);
                return Ok(ahead);
            }
            Some(ahead) => later.delete(&ahead.exchange),
            None => {}
        }
        timeout(OPEN_LIMIT, Link::open(with, topology)).await.unwrap_or(Err(LinkError::Silent))
    }

    /// Closes the links and deletes their exchanges.
    pub(crate) async fn close(&self) {
        // Between two links there may be the second one alone. The last one is deleted first.
        let links = self.second.take().into_iter().chain(self.link.swap(None));
        let mut exchanges: Vec<LinkExchange> = links.map(|link| link.exchange.clone()).collect();
        if exchanges.is_empty() {
            return;
        }
        let deleting = delete_all(&self.broker, &mut exchanges);
        if let Ok(Err(error)) = timeout(CLOSE_LIMIT, deleting).await {
            tracing::debug!(reason = chain(&error), "an exchange of this gateway stays behind");
        }
    }

    /// Waits until the link fails or another topology is recorded. Meanwhile declares missing queues
    /// again.
    async fn watch(
        &self,
        link: &Arc<Link>,
        database: &Pool,
        recorded: &mut watch::Receiver<Recorded>,
    ) {
        let expected = Recorded { topology: link.topology, phase: Phase::Open };
        let (mut blocked, mut reason) = (false, None);
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
                tracing::info!("the topology is being changed: updates get 503");
                return;
            }
            let is_due = completing.as_ref().is_none_or(|(began, completing)| {
                completing.is_finished() && began.elapsed() > COMPLETE_EVERY
            });
            if let Some(partition) = link.silent_partition()
                && self.second.takes(partition).await
            {
                link.failed.store(true, Ordering::Relaxed);
                reason = Some("it took no updates, and another node did");
                break;
            }
            if link.is_incomplete() && is_due {
                let task = tokio::spawn(link.clone().complete(database.clone()));
                completing = Some((Instant::now(), AbortOnDropHandle::new(task)));
            }
            sleep(LOOK_EVERY).await;
        }
        let host = self.servers().server;
        let reason = reason.unwrap_or_else(|| link.why_failed());
        tracing::warn!(host, reason, "the connection to RabbitMQ is given up");
        self.broker.lost(PURPOSE, reason);
    }

    /// Ensures that nothing the link has sent is queued from now on. Retries while RabbitMQ can't be reached,
    /// because the next link needs it anyway. While a node of a cluster stalls, the deletion goes on in the
    /// background: it waits for that node, and updates must not.
    async fn give_up(&self, link: &Link, later: &Later) {
        loop {
            match link.exchange.delete(&self.broker).await {
                Ok(()) => break,
                Err(FenceError::Silent) if self.broker.has_several_hosts() => {
                    tracing::warn!("RabbitMQ does not delete an exchange: a node may be stalled");
                    later.delete(&link.exchange);
                    break;
                }
                Err(error) => {
                    let reason = chain(&error);
                    tracing::debug!(reason, "the exchange can't be deleted: trying again");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
        // A new connection is not notified that publishers are blocked before it has sent something.
        while link.is_blocked() {
            sleep(LOOK_EVERY).await;
        }
        self.link.store(None);
    }
}

/// Follows the recorded topology. While the database is unavailable, the last one remains in use.
async fn follow(database: Pool, recorded: watch::Sender<Recorded>) {
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
