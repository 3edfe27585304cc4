//! The lane of a partition: the only channel on which a link publishes to it, so that updates of a
//! component keep their order.
//!
//! A lane sends at once while at most one of its messages is unconfirmed. Otherwise updates collect, and
//! are sent as one message, because RabbitMQ's costs are per message: when a message is confirmed, or when
//! they fill one (much as Nagle's algorithm has it). There is no timer, so nothing waits while a lane is
//! idle.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Duration};

use deadpool::managed::Object;
use lapin::{Channel, options::BasicPublishOptions, types::ShortString};
use shared::{process::supervise, throttled, wire::envelope::Entry};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    PublishError,
    channels::Channels,
    closing::{CLOSE_LIMIT, Closing},
    confirms::{Confirmed, Unconfirmed},
    envelope_limits::EnvelopeLimits,
    link_shared::LinkShared,
    outgoing,
    ticket::Queued,
};

/// Time between the 503 for the last update of an unconfirmed message and the closing of the lane's
/// channel. When the leader of a queue stalls, its successor confirms what was sent on this channel, within
/// 10 s by RabbitMQ's defaults; a new channel may get no confirmations for a minute.
const UNCONFIRMED_LIMIT: Duration = Duration::from_secs(12);
/// The same while RabbitMQ is short of memory or disk, and for one that it does not even read.
const UNREAD_LIMIT: Duration = Duration::from_secs(5);
/// Time between a refusal and the next channel. A channel that publishes to a queue for the first time
/// between the loss of the leader and the election of another one is refused everything from then on; elections
/// take less than this.
const RENEWAL_PAUSE: Duration = Duration::from_millis(600);
/// How often a busy lane checks for overdue confirmations.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the length of a queue counts as known.
const MEASURED: Duration = Duration::from_secs(1);
/// Maximum number of updates taken from the channel at once.
const TAKE: usize = 256;

/// The handle of a lane. Its task ends with it.
pub(super) struct Lane {
    queue: mpsc::UnboundedSender<Vec<Queued>>,
    _sending: AbortOnDropHandle<()>,
}

impl Lane {
    /// Starts the lane of a partition.
    pub(super) fn start(link: LinkShared, partition: u16) -> Self {
        let (queue, arriving) = mpsc::unbounded_channel();
        let limits = EnvelopeLimits::of(link.topology.wire, link.topology.partitions);
        let routing_key = link.topology.routing_key(partition).into();
        let sending = Sending {
            link,
            partition,
            limits,
            routing_key,
            channel: None,
            has_confirmed: false,
            renewal: None,
            closing: None,
            measured: None,
            waiting: VecDeque::new(),
            dropped: None,
            unconfirmed: Unconfirmed::default(),
        };
        let sending = supervise::spawn("publishing", sending.run(arriving));
        Self { queue, _sending: AbortOnDropHandle::new(sending) }
    }

    /// Submits updates to be sent in order, in one message where they fit.
    pub(super) fn submit(&self, updates: Vec<Queued>) {
        // A lane that has ended drops them, and their tickets report it.
        drop(self.queue.send(updates));
    }
}

/// What is kept of a message until it is confirmed.
struct Sent {
    confirmed: Vec<oneshot::Sender<Result<(), PublishError>>>,
    /// When the last of its clients is answered.
    deadline: Instant,
    at: Instant,
}

impl Sent {
    fn settle(self, result: Result<(), PublishError>) {
        for confirmed in self.confirmed {
            // Those whose deadline has passed were answered.
            let _answered = confirmed.send(result);
        }
    }
}

/// A lane's task.
struct Sending {
    link: LinkShared,
    partition: u16,
    limits: EnvelopeLimits,
    routing_key: ShortString,
    /// None until the first message.
    channel: Option<Object<Channels>>,
    /// Whether a message was confirmed on the channel.
    has_confirmed: bool,
    /// When the channel is to be replaced, once nothing is unconfirmed; nothing is sent until then.
    renewal: Option<Instant>,
    /// The last channel, if it is being closed and had unconfirmed messages; nothing is sent until then.
    closing: Option<Closing>,
    /// Whether the queue was full, and when.
    measured: Option<(bool, Instant)>,
    waiting: VecDeque<Queued>,
    /// The first deadline of those that were dropped unsent since the last confirmation.
    dropped: Option<Instant>,
    unconfirmed: Unconfirmed<Sent>,
}

impl Sending {
    async fn run(mut self, mut arriving: mpsc::UnboundedReceiver<Vec<Queued>>) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arrived = Vec::new();
        'link: loop {
            tokio::select! {
                biased;
                confirmed = self.unconfirmed.confirmed(), if !self.unconfirmed.is_empty() => {
                    self.settle(confirmed).await;
                }
                taken = arriving.recv_many(&mut arrived, TAKE) => {
                    self.waiting.extend(arrived.drain(..).flatten());
                    if taken == 0 {
                        return;
                    }
                }
                closed = Closing::closed(&mut self.closing) => {
                    self.link.progress.answered(self.partition);
                    self.link.failed.fetch_or(!closed, Ordering::Relaxed);
                }
                _ = looks.tick(), if self.is_busy() => self.look(),
            }
            loop {
                if self.link.failed.load(Ordering::Relaxed) {
                    break 'link;
                }
                let message = if self.may_send() { self.gather() } else { Vec::new() };
                if message.is_empty() {
                    break;
                }
                self.publish(message).await;
            }
        }
        // What has not been sent never will be; what has been sent may still be confirmed.
        drop((arriving, self.waiting));
        while !self.unconfirmed.is_empty() {
            for (sent, confirmed) in self.unconfirmed.confirmed().await {
                sent.settle(self.link.result(confirmed));
            }
        }
    }

    /// Whether something is waited for that may become overdue.
    fn is_busy(&self) -> bool {
        !self.unconfirmed.is_empty() || self.renewal.is_some() || self.closing.is_some()
    }

    /// Whether a message is sent now. A new channel is tried with one: while the queue has no leader that answers,
    /// RabbitMQ takes up to `net_ticktime` and 5 s to refuse each message of such a channel.
    fn may_send(&self) -> bool {
        let unconfirmed = self.unconfirmed.len();
        let sizes = self.waiting.iter().map(|next| next.bytes);
        self.renewal.is_none()
            && self.closing.is_none()
            && (self.has_confirmed || unconfirmed == 0)
            && self.limits.may_send(unconfirmed, sizes)
    }

    /// The updates of the next message, in order; empty if none waits.
    fn gather(&mut self) -> Vec<(Queued, Entry)> {
        let (mut message, mut bytes) = (Vec::new(), 0);
        let now = Instant::now();
        while let Some(next) = self.waiting.front() {
            let is_full =
                message.len() >= self.limits.updates || bytes + next.bytes > self.limits.bytes;
            let last: Option<&(Queued, Entry)> = message.last();
            let is_alone = next.is_marker || last.is_some_and(|(last, _)| last.is_marker);
            if (is_full || is_alone) && !message.is_empty() {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            if next.deadline <= now {
                // Its client learns that it was not sent.
                continue;
            }
            let entry = next.unsent.lock().take();
            if let Some(entry) = entry {
                bytes += next.bytes;
                message.push((next, entry));
            }
        }
        message
    }

    async fn publish(&mut self, message: Vec<(Queued, Entry)>) {
        let (queued, entries): (Vec<Queued>, Vec<Entry>) = message.into_iter().unzip();
        let deadline = queued.iter().map(|queued| queued.deadline).max();
        let message = outgoing::message(&queued, entries);
        let (Some((id, properties, body)), Some(deadline)) = (message, deadline) else { return };
        let confirmed = queued.into_iter().map(|queued| queued.confirmed).collect();
        let sent = Sent { confirmed, deadline, at: Instant::now() };
        let publishing = async {
            if self.channel.is_none() {
                self.channel = self.link.channels.get().await.ok();
            }
            let channel = self.channel.as_ref()?;
            // Unroutable messages are returned.
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let (exchange, key) = (self.link.exchange.clone(), self.routing_key.clone());
            channel.basic_publish(exchange, key, options, &body, properties).await.ok()
        };
        // RabbitMQ reads nothing while it is short of memory.
        match timeout_at(deadline + UNREAD_LIMIT, publishing).await {
            Ok(Some(confirm)) => self.unconfirmed.add(id, sent, confirm),
            Ok(None) | Err(_) => sent.settle(self.link.result(Confirmed::Failed)),
        }
    }

    /// Settles confirmed messages. After a refusal the channel is replaced, unless the queue is full. One that
    /// has never confirmed anything is replaced even then: it may refuse everything for ever.
    async fn settle(&mut self, confirmed: Vec<(Sent, Confirmed)>) {
        self.dropped = None;
        if confirmed.iter().any(|(_, confirmed)| *confirmed == Confirmed::Queued) {
            // That answers for all partitions, once it is settled.
            self.has_confirmed = true;
        } else {
            self.link.progress.answered(self.partition);
        }
        let mut refused = Vec::new();
        for (sent, confirmed) in confirmed {
            match confirmed {
                Confirmed::Refused => refused.push(sent),
                Confirmed::Queued
                | Confirmed::Returned
                | Confirmed::Unknown
                | Confirmed::Failed => sent.settle(self.link.result(confirmed)),
            }
        }
        if refused.is_empty() {
            return;
        }
        let is_full = self.is_full().await;
        if !is_full || !self.has_confirmed {
            self.renewal.get_or_insert_with(|| Instant::now() + RENEWAL_PAUSE);
        }
        if !is_full {
            let partition = self.routing_key.as_str();
            throttled!(
                warn,
                partition,
                partition,
                "RabbitMQ refuses the updates of a partition that is not full: its channel is replaced"
            );
        }
        let error = if is_full { PublishError::Full } else { PublishError::Unavailable };
        for sent in refused {
            sent.settle(Err(error));
        }
    }

    /// Whether the queue is known to be full. It is not measured for each refusal, nor while the channel is
    /// to be replaced.
    async fn is_full(&mut self) -> bool {
        match self.measured {
            Some((is_full, at)) if self.renewal.is_some() || at.elapsed() < MEASURED => is_full,
            None if self.renewal.is_some() => false,
            Some(_) | None => {
                let is_full = self.link.is_full(self.partition).await;
                self.measured = Some((is_full, Instant::now()));
                is_full
            }
        }
    }

    /// Drops what waits and is answered already.
    fn drop_late(&mut self, now: Instant) {
        let dropped = &mut self.dropped;
        self.waiting.retain(|next| {
            if next.deadline <= now {
                *dropped = Some(dropped.map_or(next.deadline, |first| first.min(next.deadline)));
            }
            next.deadline > now
        });
    }

    /// Replaces the channel when a confirmation is overdue, or after a refusal. The other partitions are not
    /// affected.
    fn look(&mut self) {
        let now = Instant::now();
        self.drop_late(now);
        if let Some(closing) = &mut self.closing {
            if closing.is_late(now) {
                self.link.channel_closes_late();
            }
            return;
        }
        if self.unconfirmed.is_empty() {
            if self.renewal.is_some_and(|renewal| renewal <= now) {
                self.renew_channel();
            }
            return;
        }
        if let Some(sent) = self.unconfirmed.iter().map(|sent| sent.at).min() {
            self.link.progress.unconfirmed(self.partition, sent, now);
        }
        let limit = if self.link.is_blocked() { UNREAD_LIMIT } else { UNCONFIRMED_LIMIT };
        // What waits behind a message may have an earlier deadline.
        let deadlines = self.unconfirmed.iter().map(|sent| sent.deadline).chain(self.dropped);
        let first = deadlines.min();
        if first.is_none_or(|deadline| deadline + limit > now) {
            return;
        }
        let partition = self.routing_key.as_str();
        throttled!(
            warn,
            partition,
            partition,
            "RabbitMQ does not confirm what a partition takes: its channel is given up"
        );
        self.close_channel(now);
    }

    /// Closes the channel when something is unconfirmed on it; the next message gets another one. When the
    /// channel is closed, RabbitMQ has read everything that was sent on it: nothing of it is queued later than
    /// what the next channel sends. So that is waited for, however long it takes: while the queue hangs,
    /// RabbitMQ does not close a channel that has published to it for the first time.
    fn close_channel(&mut self, now: Instant) {
        for sent in self.unconfirmed.abandon() {
            sent.settle(Err(PublishError::Unconfirmed));
        }
        let Some(channel) = self.take_channel() else { return };
        self.link.channel_given_up();
        self.link.pending.channel_replaced(self.partition);
        self.closing = Some(Closing::new(channel, now));
    }

    /// Replaces the channel when nothing is unconfirmed on it: nothing of it can be queued later, so the next
    /// one does not wait until it is closed.
    fn renew_channel(&mut self) {
        let Some(channel) = self.take_channel() else { return };
        // A full queue says nothing about the node.
        if !self.measured.is_some_and(|(is_full, _)| is_full) {
            self.link.channel_given_up();
        }
        self.link.pending.channel_replaced(self.partition);
        supervise::spawn("closing", async move {
            // If it fails, the connection does, or RabbitMQ closes the channel later.
            drop(timeout(CLOSE_LIMIT, channel.close(200, "it refuses all".into())).await);
        });
    }

    fn take_channel(&mut self) -> Option<Channel> {
        (self.renewal, self.has_confirmed, self.dropped) = (None, false, None);
        self.channel.take().map(Object::take)
    }
}
