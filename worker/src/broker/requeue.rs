//! Requeues parked messages, for an operator.

use anyhow::{Context, Result, bail, ensure};
use shared::{
    amqp::{broker::Broker, topology::Topology},
    wire::message::UpdateMessage,
};
use sqlx::PgConnection;

use super::publish::CommandPublisher;
use crate::store::parked::{self, ParkedMessage};

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
    let publisher = CommandPublisher::open(database, broker, "worker: parked").await?;
    let selected = select(database, which).await?;
    for parked in &selected {
        // Before it is published: a worker ignores what is parked.
        parked::mark_requeued(database, parked.id).await?;
        let partition = partition(parked, &publisher.topology);
        let refusal = publisher
            .publish(partition, message_id(parked), &parked.payload)
            .await
            .with_context(|| format!("{} may not have been requeued: do it again", parked.id))?;
        if let Some(reason) = refusal {
            parked::unmark_requeued(database, parked.id).await?;
            bail!("{} was not requeued, since its queue is {reason}: do it again later", parked.id);
        }
    }
    publisher.close().await;
    Ok(selected.len())
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
