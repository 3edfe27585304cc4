//! Moves messages: from the queues into batches, and after their commit acknowledgements and
//! replies back. What a batch does, [`settle`] knows.

use std::{collections::HashMap, sync::Arc};

use futures_util::{
    Stream, StreamExt,
    stream::{self, select_all},
};
use lapin::{
    Acker, Channel, Connection,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use shared::{
    broker::{Broker, ConnectError},
    message::{UpdateMessage, UpdateResult},
    topology::Topology,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{replies::ReplySender, settle::settle, step::Incoming};

/// What a consumer works with.
pub(crate) struct Consumer {
    pub(crate) broker: Broker,
    pub(crate) topology: Topology,
    pub(crate) database: PgPool,
    /// Updates in one transaction, at most.
    pub(crate) batch: usize,
    pub(crate) replies: ReplySender,
}

/// Why a session with the broker ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ ended the delivery of a queue")]
    Ended,
    #[error("the messages were given to another worker before they could be acknowledged")]
    Stale,
}

/// One delivery, and where it goes back to.
struct Received {
    partition: u16,
    acker: Acker,
    reply_to: Option<String>,
    incoming: Incoming,
}

impl Consumer {
    /// One session with the broker: until `stop`, when it ends with its last batch committed and
    /// acknowledged, or until the connection fails.
    ///
    /// What was received and not acknowledged by then is delivered again, perhaps to another
    /// worker; what of it was committed, the inbox passes over.
    pub(crate) async fn session(&self, stop: &CancellationToken) -> Result<(), SessionError> {
        let connection = self.broker.connect("worker: updates").await?;
        let mut channels = Vec::with_capacity(self.topology.partitions.into());
        let channel = connection.create_channel().await?;
        self.topology.declare(&channel).await?;
        channels.push(channel);
        let mut deliveries = Vec::with_capacity(self.topology.partitions.into());
        for partition in 0..self.topology.partitions {
            let (channel, stream) = self.consume(&connection, partition).await?;
            channels.push(channel);
            deliveries.push(Box::pin(stream));
        }
        tracing::info!(partitions = self.topology.partitions, "consuming");

        // What is ready goes into one batch, from all partitions alike; order within each is kept.
        let mut batches = select_all(deliveries).ready_chunks(self.batch);
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = batches.next() => batch.ok_or(SessionError::Ended)?,
            };
            let batch: Vec<Received> = batch.into_iter().collect::<Result<_, _>>()?;
            self.work(batch).await?;
        }
        // Closing the channels while their consumers live returns what was received beyond the
        // last batch in one piece; cancelling the consumers first would let the next worker
        // overtake it.
        for channel in channels {
            channel.close(200, "the worker stops".into()).await?;
        }
        connection.close(200, "the worker stops".into()).await?;
        Ok(())
    }

    /// Starts the deliveries of one partition, on a channel of its own. Their end is an error.
    async fn consume(
        &self,
        connection: &Connection,
        partition: u16,
    ) -> Result<(Channel, impl Stream<Item = Result<Received, SessionError>> + use<>), lapin::Error>
    {
        let channel = connection.create_channel().await?;
        channel.basic_qos(self.topology.prefetch, BasicQosOptions::default()).await?;
        let queue: Arc<str> = self.topology.queue(partition).into();
        let consumer = channel
            .basic_consume(
                queue.as_ref().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let stream = consumer
            .map(move |delivery| Ok(Received::new(partition, &queue, delivery?)))
            .chain(stream::once(async { Err(SessionError::Ended) }));
        Ok((channel, stream))
    }

    /// Commit, then acknowledge, then reply.
    async fn work(&self, batch: Vec<Received>) -> Result<(), SessionError> {
        let (incoming, origins): (Vec<Incoming>, Vec<_>) =
            batch.into_iter().map(|r| (r.incoming, (r.partition, r.acker, r.reply_to))).unzip();
        let results = settle(&self.database, &incoming).await;

        let mut last: HashMap<u16, &Acker> = HashMap::new();
        for (partition, acker, _) in &origins {
            last.insert(*partition, acker);
        }
        for acker in last.into_values() {
            if !acker.ack(BasicAckOptions { multiple: true }).await? {
                return Err(SessionError::Stale);
            }
        }
        let replies = origins.into_iter().zip(results).filter_map(
            |((_, _, reply_to), result)| -> Option<(String, UpdateResult)> {
                Some((reply_to?, result?))
            },
        );
        self.replies.send(replies);
        Ok(())
    }
}

impl Received {
    fn new(partition: u16, queue: &str, delivery: Delivery) -> Self {
        let text = |text: &lapin::types::ShortString| text.as_str().to_owned();
        Self {
            partition,
            reply_to: delivery.properties.reply_to().as_ref().map(text),
            incoming: Incoming {
                queue: queue.to_owned(),
                message_id: delivery.properties.message_id().as_ref().map(text),
                content: UpdateMessage::decode(&delivery.data),
                payload: delivery.data,
            },
            acker: delivery.acker,
        }
    }
}
