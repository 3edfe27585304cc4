//! Requeues parked messages, for an operator.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use shared::{
    broker::Broker,
    message::UpdateMessage,
    topology::{Phase, Recorded, Topology},
};
use sqlx::PgConnection;
use tokio::time::timeout;

use crate::store::{
    command_lock,
    parked::{self, ParkedMessage},
};

const PERSISTENT: u8 = 2;
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// A selection of parked messages.
#[derive(Clone, Debug)]
pub(crate) enum ParkedSelection {
    /// Those with these numbers.
    These(Vec<i64>),
    /// All of them.
    All,
}

/// The parked messages, oldest first.
///
/// # Errors
/// When a number does not exist, or the database fails.
pub(crate) async fn select(
    database: &mut PgConnection,
    which: &ParkedSelection,
) -> Result<Vec<ParkedMessage>> {
    let ids = match which {
        ParkedSelection::These(ids) => Some(ids.as_slice()),
        ParkedSelection::All => None,
    };
    let found = parked::read(database, ids).await?;
    for id in ids.into_iter().flatten() {
        ensure!(
            found.iter().any(|parked| parked.id == *id),
            "nothing is parked under {id}: `worker parked list` shows what is"
        );
    }
    Ok(found)
}

/// Requeues parked messages, each at the end of its partition. Those that can't be applied this time
/// either are parked again. Returns how many were requeued.
///
/// Requeueing a message twice is harmless: it is applied once.
///
/// # Errors
/// When a number does not exist, when RabbitMQ refuses a message, or when the database fails. Those
/// before it are requeued.
pub(crate) async fn requeue(
    database: &mut PgConnection,
    broker: &Broker,
    which: &ParkedSelection,
) -> Result<usize> {
    let connection = broker.connect("worker: parked").await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // The queues must stay the same while we publish to them.
    command_lock::hold_topology(database).await?;
    let Recorded { topology, phase } = Recorded::read(database).await?;
    if phase != Phase::Open {
        bail!("the number of partitions is being changed: try again when that is done");
    }
    topology
        .expect_exchanges(&channel)
        .await
        .context("there are no queues yet: start a worker first")?;
    let selected = select(database, which).await?;
    for parked in &selected {
        // Before it is published: a worker ignores what is parked.
        parked::mark_requeued(database, parked.id).await?;
        let refusal = publish(&channel, &topology, parked)
            .await
            .with_context(|| format!("{} may not have been requeued: do it again", parked.id))?;
        if let Some(reason) = refusal {
            parked::unmark_requeued(database, parked.id).await?;
            bail!("{} was not requeued, since its queue is {reason}: do it again later", parked.id);
        }
    }
    // All messages are confirmed: errors while closing do not matter.
    drop(connection.close(200, "done".into()).await);
    Ok(selected.len())
}

/// Publishes it; returns the problem of its queue if that did not accept it.
async fn publish(
    channel: &Channel,
    topology: &Topology,
    parked: &ParkedMessage,
) -> Result<Option<&'static str>> {
    let key = topology.routing_key(partition(parked, topology));
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type("status-update".into())
        .with_delivery_mode(PERSISTENT);
    if let Some(id) = message_id(parked) {
        properties = properties.with_message_id(id.into());
    }
    // An unroutable message is returned. One at a time, so that lapin attributes it correctly.
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let exchange = topology.publish_exchange();
    let publishing =
        channel.basic_publish(exchange.into(), key.into(), options, &parked.payload, properties);
    // RabbitMQ confirms nothing while it is short of memory.
    let confirmed = timeout(CONFIRM_LIMIT, async { publishing.await?.await });
    match confirmed.await.context("RabbitMQ did not confirm it")?? {
        Confirmation::Ack(None) => Ok(None),
        Confirmation::Ack(Some(_)) => Ok(Some("missing (a worker declares it within seconds)")),
        Confirmation::Nack(_) => Ok(Some("full or not available")),
        Confirmation::NotRequested => bail!("RabbitMQ gave no confirmation"),
    }
}

/// The id of its message, so that it is recognized if it is parked again.
fn message_id(parked: &ParkedMessage) -> Option<String> {
    match parked.update_id {
        Some(id) => Some(id.to_string()),
        // Before the digest of its bytes.
        None => parked.delivery_key.rsplit_once(' ').map(|(id, _)| id.to_owned()),
    }
}

/// The partition where it is requeued: that of its component; without one, the partition that delivered
/// it.
fn partition(parked: &ParkedMessage, topology: &Topology) -> u16 {
    if let Ok(update) = UpdateMessage::decode(&parked.payload) {
        return update.component.id.partition(topology.partitions);
    }
    let came_from = parked.queue.rsplit_once(".p").and_then(|(_, number)| number.parse().ok());
    came_from.map_or(0, |number: u16| number % topology.partitions)
}
