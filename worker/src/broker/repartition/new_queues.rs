//! The queues of the next topology, declared before the old ones are closed.
//!
//! If a node of RabbitMQ dies while a quorum queue is declared on it, the queue may be known without running:
//! it never has a leader. So each new queue is consumed for a moment, which requires its leader, while nothing
//! is changed yet. If one can't be, all are deleted again, and the change fails.
//!
//! A killed command leaves its queues behind: they may be broken, or have other arguments than the next change
//! wants, so that one deletes them first. But a version that is not recorded may have been in use, before the
//! database was restored from a backup, and its queues may hold updates. The sign tells these apart: an
//! exchange that is declared before the queues and deleted before their version is recorded. Queues without it
//! are never deleted here.
//!
//! Deleting would be fatal after another command recorded the version. So a command deletes only while its
//! session holds the lock, and asks the session before every step. One that stalls between the question and
//! the step for long is cut off by RabbitMQ (its heartbeats), before PostgreSQL ends the session as idle.

use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use futures_util::future::try_join_all;
use lapin::{
    Channel, Connection, ExchangeKind,
    options::{
        BasicConsumeOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions,
    },
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::FieldTable,
};
use shared::{
    amqp::{
        broker::Broker,
        topology::{MOST_PARTITIONS, Recorded, Topology},
    },
    telemetry::chain,
};
use sqlx::PgConnection;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::close;
use crate::store::topology::while_held;

/// What the connections are for, in RabbitMQ's lists.
const PURPOSE: &str = "worker: topology, new queues";
/// Time for RabbitMQ to say what is there.
const FIND_LIMIT: Duration = Duration::from_secs(10);
/// Time for declaring the queues, extended for each of them.
const DECLARE_LIMIT: Duration = Duration::from_secs(10);
const MORE_FOR_EACH: Duration = Duration::from_millis(100);
/// Time for a queue to have a leader.
const LEADER_LIMIT: Duration = Duration::from_secs(10);
/// Time for deleting some queues. RabbitMQ waits 5 s for each member of a queue that has no leader.
const DELETE_LIMIT: Duration = Duration::from_secs(20);
/// Time for deleting all of them.
const DELETE_ALL_LIMIT: Duration = Duration::from_secs(60);
/// Number of queues that are consumed or deleted concurrently.
const AT_ONCE: usize = 32;

/// The queues of a topology that is not recorded yet.
pub(super) struct NewQueues {
    pub(super) topology: Topology,
    /// Whether they certainly hold no updates.
    are_disposable: bool,
}

/// What is there of a version that is not recorded.
enum Found {
    Nothing,
    /// What a killed command left behind, without updates.
    Leftovers,
    /// Queues that may have been in use.
    Unknown,
}

impl NewQueues {
    /// Declares them and proves that each has a leader.
    ///
    /// # Errors
    /// When a queue has no leader in time, when RabbitMQ or the database fails, and on `stop`: nothing is
    /// changed then.
    pub(super) async fn make(
        database: &mut PgConnection,
        broker: &Broker,
        topology: Topology,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let mut new = Self { topology, are_disposable: false };
        let made = tokio::select! {
            made = new.make_alone(database, broker) => made,
            () = stop.cancelled() => Err(anyhow!("stopped by a signal")),
        };
        let Err(error) = made else { return Ok(new) };
        Err(new.discard(database, broker, error.context("nothing was changed")).await)
    }

    async fn make_alone(&mut self, database: &mut PgConnection, broker: &Broker) -> Result<()> {
        let found = while_held(database, self.find(broker)).await?;
        if matches!(found, Found::Leftovers) {
            let deleted = self.delete(database, broker).await;
            deleted.context("the queues that an earlier change left behind can't be deleted")?;
        }
        self.are_disposable = !matches!(found, Found::Unknown);
        while_held(database, self.declare(broker)).await
    }

    async fn find(&self, broker: &Broker) -> Result<Found> {
        let connection = broker.connect(PURPOSE).await?;
        let finding = async {
            let is_there = async |exchange| is_there(&connection, exchange).await;
            // The first and the last of what is declared and deleted, with a sign and without.
            Ok(match is_there(self.sign()).await? {
                // It was recorded after all, by an earlier release, which does not know the sign.
                true if is_there(self.topology.publish_exchange()).await? => Found::Unknown,
                true => Found::Leftovers,
                false if is_there(self.topology.dead_letter_queue()).await? => Found::Unknown,
                false => Found::Nothing,
            })
        };
        let found = timeout(FIND_LIMIT, finding).await;
        close(&connection).await;
        found.context("RabbitMQ did not answer in time")?
    }

    async fn declare(&self, broker: &Broker) -> Result<()> {
        let connection = broker.connect(PURPOSE).await?;
        let declaring = async {
            let channel = connection.create_channel().await?;
            if self.are_disposable {
                let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
                let (sign, none) = (self.sign().into(), FieldTable::default());
                channel.exchange_declare(sign, ExchangeKind::Direct, durable, none).await?;
            }
            self.topology.declare_queues(&channel).await
        };
        let limit = DECLARE_LIMIT + MORE_FOR_EACH * self.topology.partitions.into();
        let declared = match timeout(limit, declaring).await {
            Ok(declared) => declared.context("the new queues can't be declared"),
            Err(_) => {
                Err(anyhow!("RabbitMQ did not declare the new queues within {} s", limit.as_secs()))
            }
        };
        let are_led = match declared {
            Ok(()) => self.are_led(&connection).await,
            Err(error) => Err(error),
        };
        close(&connection).await;
        // Another node is to delete them.
        are_led.inspect_err(|error| broker.lost(PURPOSE, &chain(error.as_ref())))
    }

    /// Consumes each queue for a moment.
    async fn are_led(&self, connection: &Connection) -> Result<()> {
        let queues: Vec<String> = self.topology.queues().collect();
        let consuming = queues.chunks(queues.len().div_ceil(AT_ONCE)).map(async |queues| {
            let channel =
                timeout(LEADER_LIMIT, connection.create_channel()).await.map_err(Error::from)??;
            for queue in queues {
                let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
                // Each gets a tag of its own.
                let tag = "".into();
                let started = channel.basic_consume(queue.as_str().into(), tag, options, none);
                // The consumer is cancelled at once; the queue is empty.
                let started = timeout(LEADER_LIMIT, started).await.map_err(|_| no_leader(queue))?;
                // RabbitMQ may end the connection, and does not say because of which queue.
                drop(started.context("a new queue can't be consumed")?);
            }
            Ok(())
        });
        try_join_all(consuming).await.map(drop)
    }

    /// To be called before the version is recorded: they are never deleted from then on.
    ///
    /// # Errors
    /// When RabbitMQ fails.
    pub(super) async fn are_recorded_next(&self, channel: &Channel) -> Result<()> {
        channel.exchange_delete(self.sign().into(), ExchangeDeleteOptions::default()).await?;
        Ok(())
    }

    /// Deletes them after a failure, if they are certainly not recorded; returns what to report.
    pub(super) async fn discard(
        &self,
        database: &mut PgConnection,
        broker: &Broker,
        failure: Error,
    ) -> Error {
        if !self.are_disposable {
            return failure;
        }
        match self.discard_unrecorded(database, broker).await {
            Ok(()) => failure,
            Err(error) => {
                let (failure, reason) = (chain(failure.as_ref()), chain(error.as_ref()));
                anyhow!("{failure}. New queues remain, unused, until the next change: {reason}")
            }
        }
    }

    async fn discard_unrecorded(&self, database: &mut PgConnection, broker: &Broker) -> Result<()> {
        // The session holds the lock as long as it answers, so this is not changed by others.
        let reading = timeout(FIND_LIMIT, Recorded::read(database)).await;
        let recorded = reading.context("the database does not answer")??.topology.version;
        ensure!(recorded < self.topology.version, "they may be recorded");
        self.delete(database, broker).await
    }

    /// Deletes all that may be there of the version.
    async fn delete(&self, database: &mut PgConnection, broker: &Broker) -> Result<()> {
        let connection = while_held(database, async { Ok(broker.connect(PURPOSE).await?) }).await?;
        let deleting = self.delete_by(&connection, database);
        let deleted = timeout(DELETE_ALL_LIMIT, deleting).await;
        close(&connection).await;
        deleted.context("RabbitMQ did not delete them in time")?
    }

    async fn delete_by(&self, connection: &Connection, database: &mut PgConnection) -> Result<()> {
        let opening = try_join_all((0..AT_ONCE).map(|_| connection.create_channel()));
        let channels = in_time(database, opening).await?;
        // A command that wanted more may have left them behind. Those that are missing are no error.
        let all = Topology { partitions: MOST_PARTITIONS, ..self.topology };
        let queues: Vec<String> = all.queues().collect();
        for queues in queues.chunks(channels.len()) {
            // Without conditions, which RabbitMQ does not support for quorum queues.
            let deleting = channels.iter().zip(queues).map(|(channel, queue)| {
                channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            });
            in_time(database, try_join_all(deleting)).await?;
        }
        // The sign is last, so that what remains is deleted by the next command.
        let dead = self.topology.dead_letter_queue();
        for exchange in [dead, self.sign()] {
            let deleting = channels.iter().take(1).map(|channel| {
                channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
            });
            in_time(database, try_join_all(deleting)).await?;
        }
        Ok(())
    }

    /// The exchange that shows that they were never recorded.
    fn sign(&self) -> String {
        format!("sdb.unrecorded.v{}", self.topology.version)
    }
}

fn no_leader(queue: &str) -> Error {
    anyhow!(
        "{queue} has no leader: RabbitMQ did not deliver it within {} s",
        LEADER_LIMIT.as_secs()
    )
}

/// A step of the deletion, which begins right after the session has answered.
async fn in_time<T>(
    database: &mut PgConnection,
    step: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T> {
    let step = async {
        let done = timeout(DELETE_LIMIT, step).await;
        Ok(done.context("RabbitMQ did not delete some of them in time")??)
    };
    while_held(database, step).await
}

/// Whether an exchange exists.
async fn is_there(connection: &Connection, exchange: String) -> Result<bool> {
    // A separate channel, because RabbitMQ closes it when there is none.
    let channel = connection.create_channel().await?;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let none = FieldTable::default();
    let asked =
        channel.exchange_declare(exchange.into(), ExchangeKind::Direct, passive, none).await;
    match asked {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_missing(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
}
