//! A bare publisher: what RabbitMQ confirms when nothing else is done.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use harness::System;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueuePurgeOptions},
};
use shared::{
    component::{self, Component},
    impact::Impact,
    message::UpdateMessage,
    timestamp::Timestamp,
    topology::Topology,
    update::UpdateId,
};
use tokio::time::Instant;
use uuid::Builder;

use crate::load::Outcome;

/// The delivery mode of a message that outlives RabbitMQ's restart.
const PERSISTENT: u8 = 2;

/// Publishes updates to the queues of a system, on one channel.
pub(crate) struct Publisher {
    connection: Connection,
    channel: Channel,
    topology: Topology,
    components: Vec<Component>,
    /// Microseconds since 1970, by the clock of the database.
    now: i64,
    sent: u64,
}

impl Publisher {
    /// Declares the queues as the gateway and the worker do.
    pub(crate) async fn connect(system: &System) -> Result<Self> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&system.amqp_uri, properties).await?;
        let channel = connection.create_channel().await?;
        let topology = system.topology().await?;
        let mut database = system.database.acquire().await?;
        topology.declare(&channel, &mut database).await?;
        let components = component::read_all(&mut database).await?;
        ensure!(!components.is_empty(), "there are no components");
        let now: Timestamp = sqlx::query_scalar("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
            .fetch_one(&mut *database)
            .await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let now = now.as_micros();
        Ok(Self { connection, channel, topology, components, now, sent: 0 })
    }

    /// The next update, as the gateway would send it, and its routing key.
    fn next(&mut self) -> Result<(UpdateMessage, String)> {
        let number = self.sent;
        self.sent += 1;
        // Every component with every impact, as a burst has them.
        let body = harness::burst::update(number as usize);
        let region = body["attributes"][0]["value"].as_str().unwrap_or_default();
        let found = self.components.iter().find(|component| {
            body["name"] == component.name.as_str()
                && component.attributes.iter().any(|attribute| attribute.value == region)
        });
        let component = found.context("the catalogue has not the components of a burst")?.clone();
        let impact = match body["impact"].as_i64() {
            Some(3) => Impact::Outage,
            Some(2) => Impact::Major,
            _ => Impact::Minor,
        };
        let key = self.topology.routing_key(component.id.partition(self.topology.partitions));
        // Milliseconds count up with the updates, so that the ids are in their order.
        let millis = (self.now / 1_000) as u64 + number / 100;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        let id = Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        let message = UpdateMessage {
            id: UpdateId(id),
            component,
            impact,
            text: "Incident".to_owned(),
            received_at: Timestamp::from_micros(self.now)?,
            idempotency: None,
        };
        Ok((message, key))
    }

    /// Publishes until the time is over or so many are sent, with so many unconfirmed at once.
    pub(crate) async fn publish(
        &mut self,
        in_flight: usize,
        time: Duration,
        count: u64,
    ) -> Result<Outcome> {
        let mut prepared = Vec::new();
        // Made before the clock starts: a bare publisher has its bodies.
        for _ in 0..count.min(50_000) {
            let (message, key) = self.next()?;
            prepared.push((message.encode(), key, message.id.to_string()));
        }
        let exchange = self.topology.exchange();
        let begin = Instant::now();
        let mut unconfirmed = FuturesUnordered::new();
        let (mut sent, mut confirmed, mut failed) = (0, 0, 0);
        let mut confirm = |confirmation: lapin::Result<Confirmation>| -> Result<()> {
            match confirmation? {
                Confirmation::Ack(None) => confirmed += 1,
                Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                    failed += 1;
                }
            }
            Ok(())
        };
        for (body, key, id) in prepared.iter().cycle() {
            if sent >= count || begin.elapsed() >= time {
                break;
            }
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_type("status-update".into())
                .with_delivery_mode(PERSISTENT)
                .with_message_id(id.as_str().into());
            let options = BasicPublishOptions::default();
            let (exchange, key) = (exchange.as_str().into(), key.as_str().into());
            let published =
                self.channel.basic_publish(exchange, key, options, body, properties).await?;
            unconfirmed.push(published);
            sent += 1;
            if unconfirmed.len() >= in_flight
                && let Some(confirmation) = unconfirmed.next().await
            {
                confirm(confirmation)?;
            }
        }
        while let Some(confirmation) = unconfirmed.next().await {
            confirm(confirmation)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let requests = confirmed + failed;
        Ok(Outcome { requests, failed, seconds, ..Outcome::default() })
    }

    /// Fills the queues with so many different updates, all confirmed.
    pub(crate) async fn fill(&mut self, count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let part = left.min(50_000);
            let outcome = self.publish(1_000, Duration::from_secs(300), part).await?;
            ensure!(outcome.failed == 0, "{} updates were refused", outcome.failed);
            left -= part;
        }
        Ok(())
    }

    /// Empties the queues: they hold a limited number, and nobody consumes.
    pub(crate) async fn purge(&self) -> Result<()> {
        for partition in 0..self.topology.partitions {
            let queue = self.topology.queue(partition);
            self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        }
        Ok(())
    }

    pub(crate) async fn close(self) -> Result<()> {
        Ok(self.connection.close(200, "done".into()).await?)
    }
}
