//! Deliveries of RabbitMQ.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use futures_util::{Stream, StreamExt, stream};
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use shared::{
    telemetry::traces,
    wire::{envelope, marker},
};

use crate::{
    batch::{Deferrable, Delivered, Incoming, UnpackedUpdate},
    store::workers::MemberId,
};

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
    /// Its place among the updates of the session.
    pub(super) arrived: u64,
    pub(super) unsettled: Arc<Unsettled>,
    /// The reply queue of its gateway, if that waits for the outcome.
    pub(super) reply_to: Option<Arc<str>>,
    pub(super) incoming: Incoming,
}

/// A delivery that must be acknowledged once all of its updates are settled: an envelope may have
/// several.
pub(super) struct Unsettled {
    pub(super) tag: u64,
    acker: Acker,
    updates: AtomicUsize,
}

/// A delivery whose updates are all settled. Generic over what acknowledges it, for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled<A = Acker> {
    pub(super) queue: Arc<str>,
    /// Its place among the deliveries of its queue.
    pub(super) tag: u64,
    pub(super) acker: A,
}

impl Received {
    /// Records that the update is settled; returns the delivery if it was the last one of it.
    pub(super) fn settle(&self) -> Option<Settled> {
        let Unsettled { tag, acker, updates } = &*self.unsettled;
        (updates.fetch_sub(1, Ordering::Relaxed) == 1).then(|| Settled {
            queue: self.incoming.queue.clone(),
            tag: *tag,
            acker: acker.clone(),
        })
    }
}

impl Deferrable for Received {
    fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    fn arrived(&self) -> u64 {
        self.arrived
    }
}

/// Starts the deliveries of one queue, on a channel of its own. Their end is an error. The worker's
/// number shows in RabbitMQ's list of consumers. `arrivals` counts the updates of all queues.
pub(super) async fn consume(
    channel: Channel,
    prefetch: u16,
    member: MemberId,
    queue: String,
    kind: QueueKind,
    arrivals: Arc<AtomicU64>,
) -> Result<Deliveries, lapin::Error> {
    let queue: Arc<str> = queue.into();
    let consumer = start(&channel, &queue, &format!("worker {}", member.0), prefetch).await?;
    let deliveries = consumer
        .filter_map(not_a_marker)
        .flat_map(move |delivery| {
            let received = match delivery {
                Ok(delivery) => {
                    read(&queue, delivery, kind, &arrivals).into_iter().map(Ok).collect()
                }
                Err(error) => vec![Err(error.into())],
            };
            stream::iter(received)
        })
        .chain(stream::once(async { Err(DeliveryError::Ended) }));
    Ok(Box::pin(deliveries))
}

/// Starts a consumer. The prefetch count is that of all consumers: returned messages keep their order only then.
pub(super) async fn start(
    channel: &Channel,
    queue: &str,
    tag: &str,
    prefetch: u16,
) -> Result<Consumer, lapin::Error> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    channel.basic_consume(queue.into(), tag.into(), options, none).await
}

/// The delivery, unless it is a marker of a gateway, or one left behind by a killed `worker topology change`:
/// these are discarded.
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

/// Whether a delivery is a marker, which a killed command may leave behind, and gateways publish.
pub(super) fn is_marker(delivery: &Delivery) -> bool {
    delivery.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == marker::TYPE)
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueKind {
    Partition,
    DeadLetters,
}

/// The updates of a delivery, in order.
fn read(
    queue: &Arc<str>,
    mut delivery: Delivery,
    kind: QueueKind,
    arrivals: &AtomicU64,
) -> Vec<Received> {
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
    let (tag, acker) = (delivery.delivery_tag, delivery.acker.clone());
    let unsettled = Arc::new(Unsettled { tag, acker, updates });
    let reply_to = delivery.properties.reply_to().as_ref().map(|name| Arc::from(name.as_str()));
    let received = |unpacked: UnpackedUpdate| {
        let UnpackedUpdate { message_id, payload, content, wants_reply, trace } = unpacked;
        let trace = traces::get()
            .map(|traces| traces.process(queue, &delivery, message_id.as_deref(), trace.as_ref()));
        Received {
            arrived: arrivals.fetch_add(1, Ordering::Relaxed),
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
