//! An operator's commands on parked messages: list them, show one, put them back.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde::Serialize;
use shared::{
    broker::Broker,
    message::UpdateMessage,
    timestamp::Timestamp,
    topology::{Phase, Recorded, Topology},
    update_id::UpdateId,
};
use sqlx::PgConnection;
use tokio::time::timeout;

const PERSISTENT: u8 = 2;
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// Which of the parked messages.
#[derive(Clone, Debug)]
pub enum Which {
    /// Those with these numbers.
    These(Vec<i64>),
    /// All of them.
    All,
}

/// A parked message.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct ParkedMessage {
    /// The number that the commands know it by.
    pub id: i64,
    /// Its update, where it could be read that far.
    pub update_id: Option<UpdateId>,
    #[serde(skip)]
    delivery_key: String,
    /// The queue that it came from.
    pub queue: String,
    /// Why it could not be applied.
    pub reason: String,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// When it was last put back; it is gone once it is applied.
    pub put_back_at: Option<Timestamp>,
    /// Its bytes, as text.
    #[serde(rename = "message", serialize_with = "as_text")]
    pub payload: Vec<u8>,
}

fn as_text<S: serde::Serializer>(payload: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(payload))
}

impl fmt::Display for ParkedMessage {
    /// Everything about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "id:        {}", self.id)?;
        writeln!(f, "update:    {}", shown(self.update_id.map(|id| id.to_string())))?;
        writeln!(f, "queue:     {}", self.queue)?;
        writeln!(f, "reason:    {}", self.reason)?;
        writeln!(f, "parked at: {}", self.parked_at.to_the_microsecond())?;
        let put_back = self.put_back_at.map(Timestamp::to_the_microsecond);
        writeln!(f, "put back:  {}", shown(put_back))?;
        write!(f, "message:   {}", String::from_utf8_lossy(&self.payload))
    }
}

impl ParkedMessage {
    /// One line about it.
    #[must_use]
    pub fn line(&self) -> String {
        let component = UpdateMessage::decode(&self.payload).map(|update| update.component.label());
        format!(
            "{:>6}  {:.19}  {}  {}{}",
            self.id,
            self.parked_at.to_the_microsecond(),
            shown(component.ok()),
            self.reason,
            if self.put_back_at.is_some() { "  (put back, not applied yet)" } else { "" },
        )
    }

    /// The id that its message had, so that it is known again if it has to be parked again.
    fn message_id(&self) -> Option<String> {
        match self.update_id {
            Some(id) => Some(id.to_string()),
            // Before the digest of its bytes.
            None => self.delivery_key.rsplit_once(' ').map(|(id, _)| id.to_owned()),
        }
    }

    /// Where it goes when it is put back: to its component's partition; where it names none, to the
    /// one that it came from.
    fn partition(&self, topology: &Topology) -> u16 {
        if let Ok(update) = UpdateMessage::decode(&self.payload) {
            return update.component.id.partition(topology.partitions);
        }
        let came_from = self.queue.rsplit_once(".p").and_then(|(_, number)| number.parse().ok());
        came_from.map_or(0, |number: u16| number % topology.partitions)
    }
}

fn shown(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

/// The parked messages, oldest first.
///
/// # Errors
/// When there is none with a number that was asked for, or the database fails.
pub async fn list(database: &mut PgConnection, which: &Which) -> Result<Vec<ParkedMessage>> {
    let ids = match which {
        Which::These(ids) => Some(ids),
        Which::All => None,
    };
    let parked: Vec<ParkedMessage> = sqlx::query_as(
        "SELECT id, update_id, delivery_key, queue, reason, parked_at, put_back_at, payload FROM sdb_parked
        WHERE $1::bigint[] IS NULL OR id = ANY($1) ORDER BY id",
    )
    .bind(ids)
    .fetch_all(database)
    .await?;
    for id in ids.into_iter().flatten() {
        ensure!(
            parked.iter().any(|parked| parked.id == *id),
            "nothing is parked under {id}: `worker parked list` shows what is"
        );
    }
    Ok(parked)
}

/// Puts parked messages back, each at the end of its partition. What can't be applied this time either
/// is parked again. Returns how many were put back.
///
/// To put one back twice does no harm: it is applied once.
///
/// # Errors
/// When there is none with a number that was asked for, when RabbitMQ does not take one, or when the
/// database fails. Those before it are put back.
pub async fn put_back(
    database: &mut PgConnection,
    broker: &Broker,
    which: &Which,
) -> Result<usize> {
    let connection = broker.connect("worker: parked").await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // Nobody may change the shape of the queues while we publish to them. It ends with the session.
    sqlx::query("SELECT pg_advisory_lock_shared(hashtext('sdb_topology'))")
        .execute(&mut *database)
        .await?;
    let Recorded { topology, phase } = Recorded::read(database).await?;
    if phase != Phase::Open {
        bail!("the shape of the queues is being changed: try again when that is done");
    }
    topology
        .expect_exchanges(&channel)
        .await
        .context("there are no queues yet: start a worker first")?;
    let parked = list(database, which).await?;
    for parked in &parked {
        // Marked first: a worker passes over what is parked.
        sqlx::query(
            "UPDATE sdb_parked SET put_back_at = clock_timestamp() AT TIME ZONE 'UTC' WHERE id = $1",
        )
        .bind(parked.id)
        .execute(&mut *database)
        .await?;
        let refusal = publish(&channel, &topology, parked)
            .await
            .with_context(|| format!("{} may not have been put back: do it again", parked.id))?;
        if let Some(reason) = refusal {
            sqlx::query("UPDATE sdb_parked SET put_back_at = NULL WHERE id = $1")
                .bind(parked.id)
                .execute(&mut *database)
                .await?;
            bail!("{} was not put back, since its queue is {reason}: do it again later", parked.id);
        }
    }
    // All is done: how the connection ends changes nothing.
    drop(connection.close(200, "done".into()).await);
    Ok(parked.len())
}

/// Publishes it; returns what is wrong with its queue when that did not take it.
async fn publish(
    channel: &Channel,
    topology: &Topology,
    parked: &ParkedMessage,
) -> Result<Option<&'static str>> {
    let key = topology.routing_key(parked.partition(topology));
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type("status-update".into())
        .with_delivery_mode(PERSISTENT);
    if let Some(id) = parked.message_id() {
        properties = properties.with_message_id(id.into());
    }
    // Without a queue it comes back. One at a time, so that lapin knows which it was.
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
