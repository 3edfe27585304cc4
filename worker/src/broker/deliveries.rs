//! Deliveries of RabbitMQ, and their acknowledgements.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt, future::try_join_all, stream};
use lapin::{
    Acker, Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use shared::{envelope, traces};
use tokio::time::timeout;

use super::repartition::is_marker;
use crate::{
    batch::{Deferrable, Delivered, Incoming, Part},
    store::workers::MemberId,
};

/// Time limit for sending an acknowledgement.
const ACK_LIMIT: Duration = Duration::from_secs(10);
/// Why deliveries or acknowledgements ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not answer in time")]
    Silent,
    #[error("RabbitMQ ended the delivery of a queue")]
    Ended,
    #[error("the messages were given to another worker before they could be acknowledged")]
    Stale,
}

/// The deliveries of one queue, in order. Their end is an error.
pub(super) type Deliveries = Pin<Box<dyn Stream<Item = Result<Received, DeliveryError>> + Send>>;

/// One update as it was received, and the delivery that it is part of.
pub(super) struct Received {
    pub(super) queue: Arc<str>,
    pub(super) unsettled: Arc<Unsettled>,
    /// The reply queue of its gateway, if that waits for the outcome.
    pub(super) reply_to: Option<Arc<str>>,
    pub(super) incoming: Incoming,
}

/// A delivery that must be acknowledged once all of its updates are finished: an envelope may have
/// several.
pub(super) struct Unsettled {
    acker: Acker,
    updates: AtomicUsize,
}

impl Unsettled {
    /// Records that one of its updates is finished; returns whether it was the last one.
    fn settle_one(&self) -> bool {
        self.updates.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

impl Deferrable for Received {
    fn incoming(&self) -> &Incoming {
        &self.incoming
    }
}

/// Acknowledges the deliveries whose updates are all finished: with one cumulative acknowledgement for
/// each queue, unless updates of that queue are deferred, which it would include. An envelope with
/// unfinished updates is acknowledged later.
pub(super) async fn acknowledge(
    settled: impl Iterator<Item = &Received>,
    held: &HashSet<Arc<str>>,
) -> Result<(), DeliveryError> {
    let mut last: HashMap<&str, &Acker> = HashMap::new();
    let mut single: Vec<&Acker> = Vec::new();
    for received in settled.filter(|received| received.unsettled.settle_one()) {
        let acker = &received.unsettled.acker;
        if held.contains(&received.queue) {
            single.push(acker);
        } else {
            last.insert(&received.queue, acker);
        }
    }
    let all = last.into_values().map(|acker| (acker, true));
    let all = all.chain(single.into_iter().map(|acker| (acker, false)));
    try_join_all(all.map(|(acker, multiple)| async move {
        let acknowledged = acker.ack(BasicAckOptions { multiple });
        match timeout(ACK_LIMIT, acknowledged).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(DeliveryError::Stale),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(DeliveryError::Silent),
        }
    }))
    .await?;
    Ok(())
}

/// Starts the deliveries of one queue, on a channel of its own. Their end is an error. The worker's
/// number shows in RabbitMQ's list of consumers.
pub(super) async fn consume(
    channel: Channel,
    prefetch: u16,
    member: MemberId,
    queue: String,
    kind: QueueKind,
) -> Result<Deliveries, lapin::Error> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let queue: Arc<str> = queue.into();
    let consumer = channel
        .basic_consume(
            queue.as_ref().into(),
            format!("worker {}", member.0).into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let deliveries = consumer
        .filter_map(not_a_marker)
        .flat_map(move |delivery| {
            let received = match delivery {
                Ok(delivery) => read(&queue, delivery, kind).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error.into())],
            };
            stream::iter(received)
        })
        .chain(stream::once(async { Err(DeliveryError::Ended) }));
    Ok(Box::pin(deliveries))
}

/// The delivery, unless it is a marker left behind by a killed `worker topology change`, which is
/// discarded.
async fn not_a_marker(
    delivery: Result<Delivery, lapin::Error>,
) -> Option<Result<Delivery, lapin::Error>> {
    match delivery {
        Ok(delivery) if is_marker(&delivery) => {
            delivery.ack(BasicAckOptions::default()).await.err().map(Err)
        }
        other => Some(other),
    }
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueKind {
    Partition,
    DeadLetters,
}

/// The updates of a delivery, in order.
fn read(queue: &Arc<str>, mut delivery: Delivery, kind: QueueKind) -> Vec<Received> {
    let given_up = (kind == QueueKind::DeadLetters).then(|| why_dead(&delivery));
    let body = std::mem::take(&mut delivery.data);
    let headers = delivery.properties.headers().as_ref();
    let ids = headers.and_then(|headers| headers.inner().get(envelope::IDS_HEADER));
    let ids = ids.and_then(AMQPValue::as_long_string);
    let delivered = Delivered {
        body,
        message_id: delivery.properties.message_id().as_ref().map(ShortString::as_str),
        ids: ids.and_then(|ids| str::from_utf8(ids.as_bytes()).ok()),
        given_up: given_up.as_deref(),
    };
    let parts = delivered.unpack();
    let updates = AtomicUsize::new(parts.len());
    let unsettled = Arc::new(Unsettled { acker: delivery.acker.clone(), updates });
    let reply_to = delivery.properties.reply_to().as_ref().map(|name| Arc::from(name.as_str()));
    let received = |part: Part| {
        let Part { message_id, payload, content, wants_reply, trace } = part;
        let trace = traces::get()
            .map(|traces| traces.process(queue, &delivery, message_id.as_deref(), trace.as_ref()));
        Received {
            queue: queue.clone(),
            unsettled: unsettled.clone(),
            reply_to: reply_to.clone().filter(|_| wants_reply),
            incoming: Incoming { queue: queue.clone(), message_id, payload, content, trace },
        }
    };
    parts.into_iter().map(received).collect()
}

/// Why RabbitMQ put a message into the dead-letter queue.
fn why_dead(delivery: &Delivery) -> String {
    let headers = delivery.properties.headers().as_ref();
    let header = |name| headers?.inner().get(name)?.as_long_string();
    match (header("x-first-death-reason"), header("x-first-death-queue")) {
        (Some(reason), Some(queue)) => format!("{reason} in {queue}"),
        _ => format!("there was no queue for {}", delivery.routing_key),
    }
}
