//! A bare publisher: what RabbitMQ confirms when nothing else is done.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use harness::System;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use shared::{
    amqp::topology::Topology,
    domain::{component::Component, timestamp::Timestamp, update_id::UpdateId},
    wire::{
        envelope::{self, Entry},
        message::UpdateMessage,
    },
};
use tokio::{task::JoinSet, time::Instant};
use uuid::Builder;

use crate::{
    runs::LoadRun,
    sequence::{self, Sequence},
};

/// The delivery mode of a message that outlives RabbitMQ's restart.
const PERSISTENT: u8 = 2;
/// Messages that are made before the clock starts: a bare publisher has its bodies.
const PREPARED: u64 = 50_000;

/// Publishes updates to the queues of a system.
pub(crate) struct Publisher {
    connection: Connection,
    /// One for each partition, as a gateway has.
    channels: Vec<Channel>,
    topology: Topology,
    sequence: Sequence,
    components: Vec<Component>,
    /// Microseconds since 1970, by the clock of the database.
    now: i64,
    /// Updates that were made, and where the sequence is.
    made: u64,
    next: usize,
}

/// A message as it goes to RabbitMQ.
struct Prepared {
    body: Vec<u8>,
    key: String,
    id: String,
    properties: BasicProperties,
}

impl Publisher {
    /// Declares the queues as the gateway and the worker do.
    pub(crate) async fn connect(system: &System, sequence: Sequence) -> Result<Self> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&system.amqp_uri, properties).await?;
        let topology = system.topology().await?;
        let mut channels = Vec::new();
        for _ in 0..topology.partitions {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channels.push(channel);
        }
        let mut database = system.database.acquire().await?;
        topology.declare(channels.first().context("no channel")?, &mut database).await?;
        let components = sequence.components(sequence::catalogue(system).await?);
        ensure!(!components.is_empty(), "there are no components");
        let now: Timestamp = sqlx::query_scalar("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
            .fetch_one(&mut *database)
            .await?;
        let now = now.as_micros();
        Ok(Self { connection, channels, topology, sequence, components, now, made: 0, next: 0 })
    }

    /// Starts with the first update of its sequence again.
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next update, as the gateway would send it.
    fn prepare(&mut self) -> Result<Prepared> {
        let (component, condition, report) = self.sequence.update(self.next, &self.components)?;
        let number = self.made;
        self.next += 1;
        self.made += 1;
        let partition = component.id.partition(self.topology.partitions);
        // Milliseconds count up with the updates, so that the ids are in their order.
        let millis = (self.now / 1_000) as u64 + number / 100;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        let id = Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        let message = UpdateMessage {
            id: UpdateId(id),
            component,
            condition,
            text: "Incident".to_owned(),
            received_at: Timestamp::from_micros(self.now)?,
            idempotency: None,
            report,
        };
        let key = self.topology.routing_key(partition);
        let id = id.to_string();
        Ok(Prepared { body: message.encode(), key, properties: properties_of(&id), id })
    }

    /// As fast as RabbitMQ confirms, with so many unconfirmed at once: on as many channels as a gateway
    /// has, each of which sends on while confirmations are on their way.
    pub(crate) async fn publish(&mut self, in_flight: usize, time: Duration) -> Result<LoadRun> {
        let prepared = (0..PREPARED).map(|_| self.prepare()).collect::<Result<_>>()?;
        self.send(prepared, u64::MAX, self.channels.len(), in_flight, time).await
    }

    /// Fills the queues with so many different updates, in their order, all confirmed, with so many of a partition
    /// in each message.
    pub(crate) async fn fill(&mut self, count: u64, in_each: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let part = left.min(PREPARED);
            let prepared = (0..part).map(|_| self.prepare()).collect::<Result<Vec<_>>>()?;
            let prepared = if in_each > 1 { envelopes(prepared, in_each) } else { prepared };
            let messages = prepared.len() as u64;
            // On one channel: the updates of a component keep their order.
            let run = self.send(prepared, messages, 1, 1_000, Duration::from_secs(300)).await?;
            ensure!(run.failed == 0, "{} messages were refused", run.failed);
            left -= part;
        }
        Ok(())
    }

    async fn send(
        &self,
        prepared: Vec<Prepared>,
        count: u64,
        channels: usize,
        in_flight: usize,
        time: Duration,
    ) -> Result<LoadRun> {
        let begin = Instant::now();
        let sending = Arc::new(Sending {
            prepared,
            exchange: self.topology.exchange(),
            count,
            end: begin + time,
            next: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for channel in self.channels.iter().take(channels) {
            let (sending, channel) = (sending.clone(), channel.clone());
            let window = in_flight.div_ceil(channels);
            tasks.spawn(async move { sending.on(&channel, window).await });
        }
        let mut run = LoadRun::default();
        while let Some(sent) = tasks.join_next().await {
            let (confirmed, failed) = sent??;
            run.requests += confirmed + failed;
            run.failed += failed;
        }
        run.seconds = begin.elapsed().as_secs_f64();
        Ok(run)
    }

    /// One message at a time: published and confirmed, consumed, answered and acknowledged. No system
    /// that waits for an outcome can have it sooner.
    pub(crate) async fn round_trips(&mut self, system: &System, time: Duration) -> Result<LoadRun> {
        let message = self.prepare()?;
        let properties = ConnectionProperties::default();
        let consumer = Connection::connect(&system.amqp_uri, properties).await?;
        let answering = answer_all(&consumer, &self.topology).await?;
        let channel = self.channels.first().context("no channel")?;
        let queue = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let replies = channel.queue_declare("".into(), queue, FieldTable::default()).await?;
        let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let name = replies.name().clone();
        let mut replies =
            channel.basic_consume(name.clone(), "".into(), no_ack, FieldTable::default()).await?;
        let mut run = LoadRun::with_latencies()?;
        let begin = Instant::now();
        while begin.elapsed() < time {
            let sent = Instant::now();
            let properties = message.properties.clone().with_reply_to(name.clone());
            let (exchange, key) = (self.topology.exchange(), self.topology.routing_key(0));
            let options = BasicPublishOptions::default();
            let published = channel
                .basic_publish(exchange.into(), key.into(), options, &message.body, properties)
                .await?;
            published.await?;
            replies.next().await.context("the replies ended")??;
            run.requests += 1;
            let micros = sent.elapsed().as_micros() as u64;
            run.latencies.as_mut().context("made with latencies")?.record(micros)?;
        }
        run.seconds = begin.elapsed().as_secs_f64();
        answering.abort();
        consumer.close(200, "done".into()).await?;
        Ok(run)
    }

    /// Empties the queues: they hold a limited number, and nobody consumes.
    pub(crate) async fn purge(&self) -> Result<()> {
        let channel = self.channels.first().context("no channel")?;
        for partition in 0..self.topology.partitions {
            let queue = self.topology.queue(partition);
            channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        }
        Ok(())
    }

    pub(crate) async fn close(self) -> Result<()> {
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

/// What all channels send together.
struct Sending {
    prepared: Vec<Prepared>,
    exchange: String,
    count: u64,
    end: Instant,
    next: AtomicU64,
}

impl Sending {
    /// On one channel, with so many unconfirmed at once; how many were confirmed and refused.
    async fn on(&self, channel: &Channel, window: usize) -> Result<(u64, u64)> {
        let mut unconfirmed = FuturesUnordered::new();
        let (mut confirmed, mut failed) = (0, 0);
        let mut count = |confirmation: lapin::Result<Confirmation>| -> Result<()> {
            match confirmation? {
                Confirmation::Ack(None) => confirmed += 1,
                Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                    failed += 1;
                }
            }
            Ok(())
        };
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count || Instant::now() >= self.end {
                break;
            }
            let place = number as usize % self.prepared.len().max(1);
            let message = self.prepared.get(place).context("nothing is prepared")?;
            let (exchange, key) = (self.exchange.as_str().into(), message.key.as_str().into());
            let options = BasicPublishOptions::default();
            let properties = message.properties.clone();
            let published =
                channel.basic_publish(exchange, key, options, &message.body, properties).await?;
            unconfirmed.push(published);
            if unconfirmed.len() >= window
                && let Some(confirmation) = unconfirmed.next().await
            {
                count(confirmation)?;
            }
        }
        while let Some(confirmation) = unconfirmed.next().await {
            count(confirmation)?;
        }
        Ok((confirmed, failed))
    }
}

/// Puts messages with one update each together as a gateway does, so many of a partition in each.
fn envelopes(single: Vec<Prepared>, in_each: usize) -> Vec<Prepared> {
    let mut partitions: BTreeMap<String, Vec<Prepared>> = BTreeMap::new();
    for message in single {
        partitions.entry(message.key.clone()).or_default().push(message);
    }
    let all = partitions.values().flat_map(|messages| messages.chunks(in_each));
    all.filter_map(|together| {
        let entry = |message: &Prepared| Entry {
            message: message.body.clone(),
            wants_reply: false,
            trace: None,
        };
        let entries: Vec<Entry> = together.iter().map(entry).collect();
        let ids: Vec<&str> = together.iter().map(|message| message.id.as_str()).collect();
        let mut headers = FieldTable::default();
        headers.insert(envelope::IDS_HEADER.into(), AMQPValue::LongString(ids.join(",").into()));
        let Prepared { key, id, properties, .. } = together.first()?;
        let properties =
            properties.clone().with_type("status-updates".into()).with_headers(headers);
        let body = envelope::encode(&entries);
        Some(Prepared { body, key: key.clone(), id: id.clone(), properties })
    })
    .collect()
}

fn properties_of(id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type("status-update".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(id.into())
}

/// Consumes the first partition, and answers each message before it acknowledges it, as a worker does.
async fn answer_all(
    connection: &Connection,
    topology: &Topology,
) -> Result<tokio::task::JoinHandle<Result<()>>> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let queue = topology.queue(0);
    let mut deliveries =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    Ok(tokio::spawn(async move {
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery?;
            let to = delivery.properties.reply_to().clone().context("no address for the reply")?;
            let (options, properties) =
                (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish("".into(), to, options, &delivery.data, properties).await?;
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }))
}
