//! The proof that a queue is empty and that no consumer holds messages of it.
//!
//! RabbitMQ's counts prove nothing: a queue without a leader reports zero messages and consumers, and can
//! even be deleted then, with its messages. So each queue is consumed, which requires its leader, and a
//! marker is published to it: if the marker is the first message that arrives, the queue was empty. The
//! command remains the queue's only consumer, and notices late messages.

use std::{mem::ManuallyDrop, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer,
    options::{
        BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::FieldTable,
};
use shared::{amqp::topology::Topology, wire::marker};
use tokio::time::sleep;
use uuid::Uuid;

use crate::broker::deliveries::{is_marker, start};

/// The body of a marker, for people who find one.
const BODY: &[u8] = br#"{"marker":"worker topology change: shows that the queue is empty"}"#;
const PERSISTENT: u8 = 2;
/// Number of queues proved concurrently.
const AT_ONCE: usize = 32;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A queue that is empty and has no other consumer.
pub(super) struct HeldQueue {
    pub(super) queue: String,
    channel: Channel,
    /// Never dropped: that would cancel the consumer, and the next one would get later messages before
    /// those that this one holds. Closing its connection returns all of them at once.
    consumer: ManuallyDrop<Consumer>,
}

/// Holds every queue, or none if one of them was not empty or had other consumers.
pub(super) async fn hold_all(
    connection: &Connection,
    topology: Topology,
    queues: impl Iterator<Item = String>,
) -> Result<Option<Vec<HeldQueue>>> {
    let holding = queues.map(|queue| hold(connection, topology, queue));
    let held: Vec<Option<HeldQueue>> =
        stream::iter(holding).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(held.into_iter().collect())
}

/// Consumes a queue until it is proved to be empty; none if it is not.
async fn hold(
    connection: &Connection,
    topology: Topology,
    queue: String,
) -> Result<Option<HeldQueue>> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let consumer = start(&channel, &queue, "worker topology change", topology.prefetch)
        .await
        .with_context(|| format!("{queue} can't be consumed"))?;
    let mut held = HeldQueue { queue, channel, consumer: ManuallyDrop::new(consumer) };
    // A queue that has lost its leader since reports none. A worker that holds messages is counted.
    while held.consumers().await? != 1 {
        sleep(LOOK_EVERY).await;
    }
    // A marker that can't be the first message is not published, because it would stay in the queue.
    if held.has_more() {
        return Ok(None);
    }
    Ok(held.is_empty().await?.then_some(held))
}

impl HeldQueue {
    async fn consumers(&self) -> Result<u32, lapin::Error> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.queue.as_str().into();
        let declared = self.channel.queue_declare(queue, passive, FieldTable::default()).await?;
        Ok(declared.consumer_count())
    }

    /// Whether a marker is the first message that arrives.
    async fn is_empty(&mut self) -> Result<bool> {
        #[expect(clippy::disallowed_methods, reason = "a marker is no update")]
        let id = Uuid::now_v7().to_string();
        let properties = BasicProperties::default()
            .with_type(marker::TYPE.into())
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(id.as_str().into());
        let (exchange, queue) = ("".into(), self.queue.as_str().into());
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publish =
            self.channel.basic_publish(exchange, queue, options, BODY, properties).await?.await?;
        ensure!(publish == Confirmation::Ack(None), "{} does not take a marker", self.queue);
        loop {
            let delivery = self.consumer.next().await.context("RabbitMQ ended a delivery")??;
            if !is_marker(&delivery) {
                return Ok(false);
            }
            ensure!(delivery.ack(BasicAckOptions::default()).await?, "RabbitMQ ended a channel");
            // An earlier one may have been left behind.
            let found = delivery.properties.message_id().as_ref();
            if found.is_some_and(|found| found.as_str() == id) {
                return Ok(true);
            }
        }
    }

    /// Whether something has arrived since.
    pub(super) fn has_more(&mut self) -> bool {
        // The end of the deliveries counts, too: later messages would not be noticed.
        self.consumer.next().now_or_never().is_some()
    }

    /// Deletes the queue.
    pub(super) async fn delete(self) -> Result<(), lapin::Error> {
        let queue = self.queue.as_str().into();
        self.channel.queue_delete(queue, QueueDeleteOptions::default()).await?;
        Ok(())
    }
}
