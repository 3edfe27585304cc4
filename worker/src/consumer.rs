//! Moves messages: from the queues into batches, and after their commit acknowledgements and
//! replies back. What a batch does, [`settle`] knows.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures_util::{
    Stream, StreamExt,
    stream::{self, select_all},
};
use lapin::{
    Acker, Connection,
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
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{replies::ReplySender, settle::settle, step::Incoming};

/// What a consumer works with.
pub(crate) struct Consumer {
    pub(crate) broker: Broker,
    pub(crate) topology: Topology,
    pub(crate) database: PgPool,
    /// Updates in one transaction, at most.
    pub(crate) batch: usize,
    /// Days that the record of each update is kept.
    pub(crate) inbox_days: u32,
    pub(crate) replies: ReplySender,
}

/// What one partition delivers, in order. Their end is an error.
type Deliveries = Pin<Box<dyn Stream<Item = Result<Received, SessionError>> + Send>>;

/// Time for RabbitMQ to declare the queues and start every delivery.
const SETUP_LIMIT: Duration = Duration::from_secs(30);
/// Time for RabbitMQ to take an acknowledgement.
const ACK_LIMIT: Duration = Duration::from_secs(10);
/// Time for RabbitMQ to end a connection.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Time for a batch, however often it is tried: RabbitMQ takes back what is held for much longer,
/// and some versions never deliver it again when they have to (4.3.0 to 4.3.5).
const BATCH_LIMIT: Duration = Duration::from_secs(300);

/// Why a session with the broker ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not answer in time")]
    Silent,
    #[error("RabbitMQ ended the delivery of a queue")]
    Ended,
    #[error("the messages were given to another worker before they could be acknowledged")]
    Stale,
    #[error("a batch could not be settled within {} s", BATCH_LIMIT.as_secs())]
    Unsettled,
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
    /// acknowledged, or until something fails or `abandon` leaves even that batch.
    ///
    /// What was received and not acknowledged by then is delivered again, perhaps to another
    /// worker; what of it was committed, the inbox passes over.
    pub(crate) async fn session(
        &self,
        stop: &CancellationToken,
        abandon: &CancellationToken,
    ) -> Result<(), SessionError> {
        let connection = self.broker.connect("worker: updates").await?;
        let mut deliveries = Vec::with_capacity(self.topology.partitions.into());
        let started = timeout(SETUP_LIMIT, self.start(&connection, &mut deliveries)).await;
        // What is ready goes into one batch, from all partitions alike; order within each is kept.
        let mut batches = select_all(deliveries).ready_chunks(self.batch);
        let ended = match started {
            Ok(Ok(())) => self.work_through(&mut batches, stop, abandon).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(SessionError::Silent),
        };
        // However it ended, the connection closes while its consumers live: RabbitMQ then takes
        // back what was received, in one piece. A consumer that is dropped first is cancelled, and
        // the next worker gets the later messages before the earlier ones.
        let closed = timeout(CLOSE_LIMIT, connection.close(200, "the session ends".into())).await;
        drop(batches);
        ended?;
        closed.map_err(|_| SessionError::Silent)??;
        Ok(())
    }

    /// Declares the queues and starts the delivery of each partition.
    async fn start(
        &self,
        connection: &Connection,
        deliveries: &mut Vec<Deliveries>,
    ) -> Result<(), lapin::Error> {
        let channel = connection.create_channel().await?;
        self.topology.declare(&channel).await?;
        channel.close(200, "declared".into()).await?;
        for partition in 0..self.topology.partitions {
            deliveries.push(self.consume(connection, partition).await?);
        }
        tracing::info!(partitions = self.topology.partitions, "consuming");
        Ok(())
    }

    async fn work_through(
        &self,
        batches: &mut (impl Stream<Item = Vec<Result<Received, SessionError>>> + Unpin),
        stop: &CancellationToken,
        abandon: &CancellationToken,
    ) -> Result<(), SessionError> {
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                batch = batches.next() => batch.ok_or(SessionError::Ended)?,
            };
            let batch: Vec<Received> = batch.into_iter().collect::<Result<_, _>>()?;
            tokio::select! {
                done = self.work(batch) => done?,
                () = abandon.cancelled() => return Err(SessionError::Unsettled),
            }
        }
    }

    /// Starts the deliveries of one partition, on a channel of its own. Their end is an error.
    async fn consume(
        &self,
        connection: &Connection,
        partition: u16,
    ) -> Result<Deliveries, lapin::Error> {
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
        let received = consumer
            .map(move |delivery| Ok(Received::new(partition, &queue, delivery?)))
            .chain(stream::once(async { Err(SessionError::Ended) }));
        Ok(Box::pin(received))
    }

    /// Commit, then acknowledge, then reply.
    async fn work(&self, batch: Vec<Received>) -> Result<(), SessionError> {
        let (incoming, origins): (Vec<Incoming>, Vec<_>) =
            batch.into_iter().map(|r| (r.incoming, (r.partition, r.acker, r.reply_to))).unzip();
        let settled = settle(&self.database, &incoming, self.inbox_days);
        let results = timeout(BATCH_LIMIT, settled).await.map_err(|_| SessionError::Unsettled)?;

        let mut last: HashMap<u16, &Acker> = HashMap::new();
        for (partition, acker, _) in &origins {
            last.insert(*partition, acker);
        }
        for acker in last.into_values() {
            let acknowledged = acker.ack(BasicAckOptions { multiple: true });
            if !timeout(ACK_LIMIT, acknowledged).await.map_err(|_| SessionError::Silent)?? {
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
