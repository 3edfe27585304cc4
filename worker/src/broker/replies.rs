//! Sends gateways the results of their updates: one message for each batch and channel on which a gateway published.
//!
//! Replies are optional: the receipt has the same answer. So nothing waits for them, and they are dropped
//! when the broker can't accept them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lapin::{BasicProperties, Channel, Connection, options::BasicPublishOptions};
use shared::{
    amqp::broker::Broker,
    process::supervise,
    telemetry::{
        chain,
        metrics::{COMMON, Server, WORKER},
        traces::{self, Processing},
    },
    wire::message::{ReplyMessage, UpdateResult},
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// What the connection is for, in RabbitMQ's lists.
const PURPOSE: &str = "worker: replies";
/// Number of batches whose replies may wait for the broker; further replies are dropped.
const WAITING_BATCHES: usize = 256;
/// Time limit for publishing one.
const PUBLISH_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A result, with the queue of the gateway that waits for it and the span of its message.
pub(crate) type Reply = (Arc<str>, UpdateResult, Option<Arc<Processing>>);

/// The results for each queue, with the span of the first.
type Replies = HashMap<Arc<str>, (Vec<UpdateResult>, Option<Arc<Processing>>)>;

/// Sends the results of batches, on a separate connection: RabbitMQ blocks publishing connections when it
/// is short of memory, and acknowledgements must not be blocked.
pub(crate) struct ReplySender {
    queue: mpsc::Sender<Replies>,
}

impl ReplySender {
    /// Starts sending, in a task that ends when the sender is dropped and all is sent.
    pub(crate) fn start(broker: Broker) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(WAITING_BATCHES);
        (Self { queue }, supervise::spawn("replies", send_all(broker, waiting)))
    }

    /// Queues the results of a batch.
    pub(crate) fn send(&self, results: impl Iterator<Item = Reply>) {
        let mut replies = Replies::new();
        for (queue, result, trace) in results {
            replies.entry(queue).or_insert_with(|| (Vec::new(), trace)).0.push(result);
        }
        let outcomes: usize = replies.values().map(|(results, _)| results.len()).sum();
        if outcomes > 0 && self.queue.try_send(replies).is_err() {
            WORKER.replies_dropped.inc_by(outcomes as u64);
            tracing::debug!(outcomes, "replies dropped: RabbitMQ does not take them");
        }
    }
}

async fn send_all(broker: Broker, mut waiting: mpsc::Receiver<Replies>) {
    let (mut unsent, mut connected_before): (Option<Replies>, _) = (None, false);
    while !(waiting.is_closed() && waiting.is_empty() && unsent.is_none()) {
        let (connection, channel) = match open(&broker).await {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(reason = chain(&*error), "no connection for replies");
                sleep(PAUSE).await;
                continue;
            }
        };
        if std::mem::replace(&mut connected_before, true) {
            COMMON.reconnects.of(Server::Rabbitmq).inc();
        }
        while connection.status().connected() {
            let next = match unsent.take() {
                Some(replies) => Some(replies),
                // Checks the connection periodically: it may break while idle.
                None => match timeout(LOOK_EVERY, waiting.recv()).await {
                    Ok(Some(replies)) => Some(replies),
                    Ok(None) => return,
                    Err(_) => None,
                },
            };
            let Some(replies) = next else { continue };
            if let Err(reason) = publish(&channel, &replies).await {
                tracing::debug!(reason, "the connection for replies is given up");
                broker.lost(PURPOSE, &reason);
                unsent = Some(replies);
                break;
            }
        }
    }
}

async fn open(
    broker: &Broker,
) -> Result<(Connection, Channel), Box<dyn std::error::Error + Send + Sync>> {
    let connection = broker.connect(PURPOSE).await?;
    let channel = timeout(PUBLISH_LIMIT, connection.create_channel()).await??;
    Ok((connection, channel))
}

async fn publish(channel: &Channel, replies: &Replies) -> Result<(), String> {
    for (queue, (results, trace)) in replies {
        let replying = traces::get()
            .zip(trace.as_ref())
            .and_then(|(traces, first)| traces.reply(first, queue, results.len()));
        let body = ReplyMessage { results: results.clone() }.encode();
        let properties = BasicProperties::default().with_content_type("application/json".into());
        let options = BasicPublishOptions::default();
        // The channel has no confirms, so the second future is ready at once.
        let sent =
            channel.basic_publish("".into(), queue.as_ref().into(), options, &body, properties);
        let failure = match timeout(PUBLISH_LIMIT, sent).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => chain(&error),
            Err(_) => "RabbitMQ takes too long".to_owned(),
        };
        if let Some(replying) = replying {
            replying.failed();
        }
        return Err(failure);
    }
    Ok(())
}
