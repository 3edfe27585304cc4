//! Publishes messages for an operator's command, one at a time.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use shared::amqp::{
    broker::Broker,
    topology::{Phase, Recorded, Topology},
};
use sqlx::PgConnection;
use tokio::time::timeout;

use crate::store::command_locks;

const PERSISTENT: u8 = 2;
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// Publishes to the queues, which stay the same until the command's database connection ends.
pub(super) struct CommandPublisher {
    connection: Connection,
    channel: Channel,
    pub(super) topology: Topology,
}

impl CommandPublisher {
    /// # Errors
    /// When there are no queues, or their number is being changed.
    pub(super) async fn open(
        database: &mut PgConnection,
        broker: &Broker,
        name: &str,
    ) -> Result<Self> {
        let connection = broker.connect(name).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        command_locks::hold_topology(database).await?;
        let Recorded { topology, phase } = Recorded::read(database).await?;
        if phase != Phase::Open {
            bail!("the number of partitions is being changed: try again when that is done");
        }
        topology
            .expect_exchanges(&channel)
            .await
            .context("there are no queues yet: start a worker first")?;
        Ok(Self { connection, channel, topology })
    }

    /// Publishes a message to a partition; returns the problem of its queue if that did not accept it.
    ///
    /// # Errors
    /// When it may have been queued or not.
    pub(super) async fn publish(
        &self,
        partition: u16,
        message_id: Option<String>,
        payload: &[u8],
    ) -> Result<Option<&'static str>> {
        let key = self.topology.routing_key(partition);
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_type("status-update".into())
            .with_delivery_mode(PERSISTENT);
        if let Some(id) = message_id {
            properties = properties.with_message_id(id.into());
        }
        // An unroutable message is returned. One at a time, so that lapin attributes it correctly.
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let exchange = self.topology.publish_exchange();
        let publishing =
            self.channel.basic_publish(exchange.into(), key.into(), options, payload, properties);
        // RabbitMQ confirms nothing while it is short of memory.
        let confirmed = timeout(CONFIRM_LIMIT, async { publishing.await?.await });
        match confirmed.await.context("RabbitMQ did not confirm it")?? {
            Confirmation::Ack(None) => Ok(None),
            Confirmation::Ack(Some(_)) => Ok(Some("missing (a worker declares it within seconds)")),
            Confirmation::Nack(_) => Ok(Some("full or not available")),
            Confirmation::NotRequested => bail!("RabbitMQ gave no confirmation"),
        }
    }

    /// Ends the connection. All messages are confirmed: errors while closing do not matter.
    pub(super) async fn close(self) {
        drop(self.connection.close(200, "done".into()).await);
    }
}
