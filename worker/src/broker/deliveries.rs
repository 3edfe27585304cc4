//! What RabbitMQ delivers, and the acknowledgements that go back.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt, future::try_join_all, stream};
use lapin::{
    Acker, Connection,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use shared::{message::UpdateMessage, traces};
use tokio::time::timeout;

use super::repartition::is_marker;
use crate::{
    batch::{Incoming, Message, Unusable},
    membership::Share,
    store::workers::MemberId,
};

/// Time for RabbitMQ to take an acknowledgement.
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

/// What one queue delivers, in order. Their end is an error.
pub(super) type Deliveries = Pin<Box<dyn Stream<Item = Result<Received, DeliveryError>> + Send>>;

/// One delivery, and where it goes back to.
pub(super) struct Received {
    pub(super) queue: Arc<str>,
    pub(super) acker: Acker,
    pub(super) reply_to: Option<String>,
    pub(super) incoming: Incoming,
}

impl Message for Received {
    fn incoming(&self) -> &Incoming {
        &self.incoming
    }
}

/// Acknowledges messages that are settled: with one acknowledgement for a queue, unless some of that
/// queue are `unsettled`, which it would acknowledge, too.
pub(super) async fn acknowledge(
    settled: impl Iterator<Item = &Received>,
    unsettled: &HashSet<Arc<str>>,
) -> Result<(), DeliveryError> {
    let mut last: HashMap<&str, &Acker> = HashMap::new();
    let mut single: Vec<&Acker> = Vec::new();
    for received in settled {
        if unsettled.contains(&received.queue) {
            single.push(&received.acker);
        } else {
            last.insert(&received.queue, &received.acker);
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
    connection: &Connection,
    share: &Share,
    member: MemberId,
    queue: String,
    received: fn(&Arc<str>, Delivery) -> Received,
) -> Result<Deliveries, lapin::Error> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(share.topology().prefetch, BasicQosOptions::default()).await?;
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
        .filter_map(move |delivery| {
            let queue = queue.clone();
            async move { not_a_marker(delivery).await.map(|d| Ok(received(&queue, d?))) }
        })
        .chain(stream::once(async { Err(DeliveryError::Ended) }));
    Ok(Box::pin(deliveries))
}

/// The delivery, unless it is a marker: a change of the queues that was killed left it behind, and
/// nobody needs it any more.
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

impl Received {
    /// From a partition.
    pub(super) fn update(queue: &Arc<str>, delivery: Delivery) -> Self {
        let content = UpdateMessage::decode(&delivery.data).map_err(Unusable::Unreadable);
        Self::new(queue, delivery, content)
    }

    /// From the dead-letter queue.
    pub(super) fn dead_letter(queue: &Arc<str>, delivery: Delivery) -> Self {
        let why = why_dead(&delivery);
        Self::new(queue, delivery, Err(Unusable::GivenUp(why)))
    }

    fn new(queue: &Arc<str>, delivery: Delivery, content: Result<UpdateMessage, Unusable>) -> Self {
        let text = |text: &ShortString| text.as_str().to_owned();
        let trace = traces::get().map(|traces| traces.process(queue, &delivery));
        Self {
            queue: queue.clone(),
            reply_to: delivery.properties.reply_to().as_ref().map(text),
            incoming: Incoming {
                queue: queue.as_ref().to_owned(),
                message_id: delivery.properties.message_id().as_ref().map(text),
                content,
                payload: delivery.data,
                trace,
            },
            acker: delivery.acker,
        }
    }
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
