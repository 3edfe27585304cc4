//! The lane of a partition: the one channel on which a link publishes to it, so that updates of a component
//! keep the order in which they came.
//!
//! A lane sends at once while few of its messages are unconfirmed. Updates that arrive meanwhile gather,
//! and go as one message: RabbitMQ's price is per message. There is no timer, so nothing waits while a
//! lane is idle.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::Object;
use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable, ShortString},
};
use shared::{
    envelope::{self, Entry},
    metrics::GATEWAY,
    supervise, throttled, traces,
    update_id::UpdateId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    PublishError,
    channels::{ChannelPool, Channels},
    confirms::{Confirmed, Unconfirmed},
};

/// Time for a confirmation after the last of its updates was answered 503, before the lane's channel is
/// given up.
const UNCONFIRMED_LIMIT: Duration = Duration::from_secs(5);
/// How often a busy lane looks for confirmations that are overdue.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time for RabbitMQ to close a channel.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Updates that are taken from those who wait at once.
const TAKE: usize = 256;
const PERSISTENT: u8 = 2;

/// What goes into one message, and how many messages may be unconfirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    messages: usize,
    updates: usize,
    bytes: usize,
}

impl Limits {
    /// For the recorded version of messages. Measured: one unconfirmed envelope has long tails now and
    /// then, more than four gather less.
    const fn of(wire: u16) -> Self {
        if wire < envelope::VERSION {
            Self { messages: 64, updates: 1, bytes: usize::MAX }
        } else {
            Self { messages: 3, updates: 32, bytes: 32 * 1024 }
        }
    }
}

/// What a lane sends, unless it was withdrawn: whoever takes it out decides that.
type Unsent = Arc<Mutex<Option<Entry>>>;

/// An update that is handed to a lane.
struct Queued {
    id: UpdateId,
    bytes: usize,
    unsent: Unsent,
    /// When its client is answered.
    deadline: Instant,
    confirmed: oneshot::Sender<Result<(), PublishError>>,
}

/// An update on its way through a lane.
pub(super) struct Ticket {
    unsent: Unsent,
    deadline: Instant,
    confirmed: oneshot::Receiver<Result<(), PublishError>>,
}

impl Ticket {
    /// Waits for RabbitMQ's confirmation, until the deadline. What is not sent by then never is. If it is
    /// dropped before, the update goes its way.
    pub(super) async fn confirmed(self) -> Result<(), PublishError> {
        let Self { unsent, deadline, confirmed } = self;
        let ended = match timeout_at(deadline, confirmed).await {
            Ok(Ok(confirmed)) => return confirmed,
            // The lane has ended.
            Ok(Err(_)) => PublishError::Absent,
            Err(_) => PublishError::Late,
        };
        if take(&unsent).is_some() { Err(ended) } else { Err(PublishError::Unconfirmed) }
    }
}

fn take(unsent: &Unsent) -> Option<Entry> {
    // An entry is whole after any panic.
    unsent.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The way into a lane. Its task ends with it.
pub(super) struct Lane {
    queue: mpsc::UnboundedSender<Vec<Queued>>,
    _sending: AbortOnDropHandle<()>,
}

/// What the lanes of a link have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) channels: ChannelPool,
    pub(super) exchange: ShortString,
    pub(super) reply_queue: ShortString,
    pub(super) wire: u16,
    /// Set when the link is to be given up.
    pub(super) failed: Arc<AtomicBool>,
    /// Set when a queue or its binding is missing.
    pub(super) incomplete: Arc<AtomicBool>,
}

impl Lane {
    /// Starts the lane of the partition with this routing key.
    pub(super) fn start(common: Common, routing_key: String) -> Self {
        let (queue, arriving) = mpsc::unbounded_channel();
        let limits = Limits::of(common.wire);
        let sending = Sending {
            common,
            limits,
            routing_key: routing_key.into(),
            channel: None,
            waiting: VecDeque::new(),
            unconfirmed: Unconfirmed::default(),
        };
        let sending = supervise::spawn("publishing", sending.run(arriving));
        Self { queue, _sending: AbortOnDropHandle::new(sending) }
    }

    /// Hands over updates that are sent one after the other, in one message where they fit.
    pub(super) fn submit(
        &self,
        entries: impl IntoIterator<Item = (UpdateId, Entry)>,
        deadline: Instant,
    ) -> Vec<Ticket> {
        let (queued, tickets): (Vec<Queued>, Vec<Ticket>) = entries
            .into_iter()
            .map(|(id, entry)| {
                let bytes = entry.message.len();
                let unsent = Arc::new(Mutex::new(Some(entry)));
                let (sender, confirmed) = oneshot::channel();
                let ticket = Ticket { unsent: unsent.clone(), deadline, confirmed };
                (Queued { id, bytes, unsent, deadline, confirmed: sender }, ticket)
            })
            .unzip();
        // A lane that has ended drops them, which their tickets see.
        drop(self.queue.send(queued));
        tickets
    }
}

impl Common {
    /// What RabbitMQ's answer means for the clients; the link is told what it means for itself.
    fn result(&self, confirmed: Confirmed) -> Result<(), PublishError> {
        match confirmed {
            Confirmed::Queued => {
                GATEWAY.messages.inc();
                Ok(())
            }
            Confirmed::Refused => Err(PublishError::Full),
            Confirmed::Returned => {
                self.incomplete.store(true, Ordering::Relaxed);
                Err(PublishError::NoQueue)
            }
            Confirmed::Unknown => {
                self.incomplete.store(true, Ordering::Relaxed);
                Err(PublishError::Unconfirmed)
            }
            Confirmed::Failed => {
                // Not what was declared, or not there any more: declare it again.
                self.failed.store(true, Ordering::Relaxed);
                Err(PublishError::Unconfirmed)
            }
        }
    }
}

/// What is kept of a message until it is confirmed.
struct Sent {
    confirmed: Vec<oneshot::Sender<Result<(), PublishError>>>,
    /// When the last of its clients is answered.
    deadline: Instant,
}

impl Sent {
    fn settle(self, result: Result<(), PublishError>) {
        for confirmed in self.confirmed {
            // Whose time was over was answered.
            let _answered = confirmed.send(result);
        }
    }
}

/// A lane's task.
struct Sending {
    common: Common,
    limits: Limits,
    routing_key: ShortString,
    /// None until the first message.
    channel: Option<Object<Channels>>,
    waiting: VecDeque<Queued>,
    unconfirmed: Unconfirmed<Sent>,
}

impl Sending {
    async fn run(mut self, mut arriving: mpsc::UnboundedReceiver<Vec<Queued>>) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arrived = Vec::new();
        loop {
            tokio::select! {
                biased;
                confirmed = self.unconfirmed.confirmed(), if !self.unconfirmed.is_empty() => {
                    for (sent, confirmed) in confirmed {
                        sent.settle(self.common.result(confirmed));
                    }
                }
                taken = arriving.recv_many(&mut arrived, TAKE) => {
                    self.waiting.extend(arrived.drain(..).flatten());
                    if taken == 0 {
                        return;
                    }
                }
                _ = looks.tick(), if !self.unconfirmed.is_empty() => self.look().await,
            }
            if self.common.failed.load(Ordering::Relaxed) {
                break;
            }
            while self.unconfirmed.len() < self.limits.messages {
                let message = self.gather();
                if message.is_empty() {
                    break;
                }
                self.publish(message).await;
            }
        }
        // What is not sent never will be, and what is may still be confirmed.
        drop((arriving, self.waiting));
        while !self.unconfirmed.is_empty() {
            for (sent, confirmed) in self.unconfirmed.confirmed().await {
                sent.settle(self.common.result(confirmed));
            }
        }
    }

    /// The updates of the next message, in order; none when nothing waits.
    fn gather(&mut self) -> Vec<(Queued, Entry)> {
        let (mut message, mut bytes) = (Vec::new(), 0);
        let now = Instant::now();
        while let Some(next) = self.waiting.front() {
            let is_full =
                message.len() >= self.limits.updates || bytes + next.bytes > self.limits.bytes;
            if is_full && !message.is_empty() {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            if next.deadline <= now {
                // Its client finds it unsent.
                continue;
            }
            if let Some(entry) = take(&next.unsent) {
                bytes += next.bytes;
                message.push((next, entry));
            }
        }
        message
    }

    async fn publish(&mut self, message: Vec<(Queued, Entry)>) {
        let (queued, mut entries): (Vec<Queued>, Vec<Entry>) = message.into_iter().unzip();
        let ids: Vec<UpdateId> = queued.iter().map(|queued| queued.id).collect();
        let deadline = queued.iter().map(|queued| queued.deadline).max();
        let (Some(id), Some(deadline)) = (ids.first().copied(), deadline) else { return };
        let confirmed = queued.into_iter().map(|queued| queued.confirmed).collect();
        let sent = Sent { confirmed, deadline };

        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(id.to_string().into());
        if entries.iter().any(|entry| entry.wants_reply) {
            properties = properties.with_reply_to(self.common.reply_queue.clone());
        }
        let (properties, body) = match entries.as_mut_slice() {
            [alone] => {
                if let Some(trace) = alone.trace.take() {
                    properties = properties.with_headers(traces::headers(trace));
                }
                let body = std::mem::take(&mut alone.message);
                (properties.with_type("status-update".into()), body)
            }
            several => {
                let ids: Vec<String> = ids.iter().map(UpdateId::to_string).collect();
                let mut headers = FieldTable::default();
                let ids = AMQPValue::LongString(ids.join(",").into());
                headers.insert(envelope::IDS_HEADER.into(), ids);
                let properties = properties.with_type("status-updates".into());
                (properties.with_headers(headers), envelope::encode(several.iter()))
            }
        };
        let publishing = async {
            if self.channel.is_none() {
                self.channel = self.common.channels.get().await.ok();
            }
            let channel = self.channel.as_ref()?;
            // What no queue takes comes back.
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let (exchange, key) = (self.common.exchange.clone(), self.routing_key.clone());
            channel.basic_publish(exchange, key, options, &body, properties).await.ok()
        };
        // RabbitMQ reads nothing while it is short of memory.
        match timeout_at(deadline + UNCONFIRMED_LIMIT, publishing).await {
            Ok(Some(confirm)) => self.unconfirmed.add(id, sent, confirm),
            Ok(None) | Err(_) => sent.settle(self.common.result(Confirmed::Failed)),
        }
    }

    /// Gives the channel up when a confirmation is overdue, and only that: the other partitions go on.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.unconfirmed.iter().all(|sent| sent.deadline + UNCONFIRMED_LIMIT > now) {
            return;
        }
        let partition = self.routing_key.as_str();
        throttled!(
            warn,
            partition,
            partition,
            "RabbitMQ does not confirm what a partition takes: its channel is given up"
        );
        // Nothing that it has sent is read by RabbitMQ after it has closed the channel.
        if let Some(channel) = self.channel.take() {
            let channel = Object::take(channel);
            let closed = timeout(CLOSE_LIMIT, channel.close(200, "overdue".into())).await;
            if !matches!(closed, Ok(Ok(()))) {
                self.common.failed.store(true, Ordering::Relaxed);
            }
        }
        for sent in self.unconfirmed.abandon() {
            sent.settle(Err(PublishError::Unconfirmed));
        }
    }
}
