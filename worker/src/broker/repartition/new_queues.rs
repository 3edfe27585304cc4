//! The queues of the next topology, declared before the old ones are closed.
//!
//! If a node of RabbitMQ dies while a quorum queue is declared on it, the queue may be known without running:
//! it never has a leader. So each new queue is consumed for a moment, which requires its leader, while nothing
//! is changed yet. If one can't be, all are deleted again, and the change fails.
//!
//! A killed command leaves its queues behind, which may be broken. The next one deletes them, and takes another
//! version all the same: a node that stalls may execute a deletion later, when the version would be in use. A version
//! that is not recorded may also have been in use, before the database was restored from a backup, and its queues may
//! hold updates. The sign tells these apart: an exchange that is declared before the queues and deleted before their
//! version is recorded. Queues without it are never deleted here.
//!
//! Deleting would be fatal after another command recorded the version. So a command deletes only while its
//! session holds the lock, and asks the session before every step.

use std::{pin::pin, time::Duration};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use futures_util::future::try_join_all;
use lapin::{
    Channel, Connection, ExchangeKind,
    options::{
        BasicConsumeOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions,
    },
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

use super::{super::broken_queues::is_missing, UNCHANGED, close};
use crate::store::topology::while_locked;

const STOPPED: &str = "stopped by a signal";
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
    /// Whether RabbitMQ may still declare some of them.
    are_being_declared: bool,
}

/// What is there of a version that is not recorded.
#[derive(PartialEq, Eq)]
enum Found {
    Nothing,
    /// What a killed command left behind, without updates.
    Leftovers,
    /// Queues that may have been in use.
    Unknown,
}

impl NewQueues {
    /// Declares them and proves that each has a leader. Their version is the next one of which nothing is there.
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
        let mut new = Self { topology, are_being_declared: false };
        new.choose_version(database, broker, stop).await.context(UNCHANGED)?;
        let (is_over, declared) = new.declare(database, broker, stop).await;
        new.are_being_declared = !is_over;
        match declared {
            Ok(()) => Ok(new),
            Err(error) => Err(new.discard(database, broker, error.context(UNCHANGED)).await),
        }
    }

    async fn choose_version(
        &mut self,
        database: &mut PgConnection,
        broker: &Broker,
        stop: &CancellationToken,
    ) -> Result<()> {
        loop {
            ensure!(!stop.is_cancelled(), STOPPED);
            let found = while_locked(database, self.find(broker)).await?;
            if found == Found::Nothing {
                return Ok(());
            }
            if found == Found::Leftovers
                && let Err(error) = self.delete(database, broker).await
            {
                let (version, reason) = (self.topology.version, chain(error.as_ref()));
                tracing::warn!(version, reason, "queues of a change that was killed remain");
            }
            self.topology.version += 1;
        }
    }

    async fn find(&self, broker: &Broker) -> Result<Found> {
        let connection = broker.connect(PURPOSE).await?;
        let finding = async {
            let is_there = async |exchange| is_there(&connection, exchange).await;
            // The sign is declared first and deleted last; without it, the exchange of dead letters is.
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

    /// Returns also whether RabbitMQ certainly declares no more of them.
    async fn declare(
        &self,
        database: &mut PgConnection,
        broker: &Broker,
        stop: &CancellationToken,
    ) -> (bool, Result<()>) {
        let connecting = async { Ok(broker.connect(PURPOSE).await?) };
        let connection = match while_locked(database, connecting).await {
            Ok(connection) => connection,
            Err(error) => return (true, Err(error)),
        };
        let are_led = async {
            let declared = self.declare_all(&connection).await;
            let answered = declared.is_ok();
            let led = match declared {
                Ok(()) => self.are_led(&connection).await,
                Err(error) => Err(error),
            };
            Ok((answered, led))
        };
        let mut working = pin!(while_locked(database, are_led));
        let led = tokio::select! {
            led = &mut working => led,
            () = stop.cancelled() => Ok((false, Err(anyhow!(STOPPED)))),
        };
        // What RabbitMQ has not declared then, it does not declare any more. The work still has its channels: while one
        // that was dropped is being closed, the connection can't be.
        let is_closed = close(&connection).await;
        let (answered, led) = led.unwrap_or_else(|error| (false, Err(error)));
        if let Err(error) = &led {
            // Another node is to delete them.
            broker.lost(PURPOSE, &chain(error.as_ref()));
        }
        (answered || is_closed, led)
    }

    async fn declare_all(&self, connection: &Connection) -> Result<()> {
        let declaring = async {
            let channel = connection.create_channel().await?;
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            let (sign, none) = (self.sign().into(), FieldTable::default());
            channel.exchange_declare(sign, ExchangeKind::Direct, durable, none).await?;
            self.topology.declare_queues(&channel).await
        };
        let limit = DECLARE_LIMIT + MORE_FOR_EACH * self.topology.partitions.into();
        match timeout(limit, declaring).await {
            Ok(declared) => declared.context("the new queues can't be declared"),
            Err(_) => {
                bail!("RabbitMQ did not declare the new queues within {} s", limit.as_secs())
            }
        }
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
        // The session holds the lock as long as it answers, so others don't change the record.
        let reading = timeout(FIND_LIMIT, Recorded::read(database)).await;
        match reading {
            Ok(Ok(recorded)) if recorded.topology.version < self.topology.version => {}
            _ => return failure,
        }
        match self.delete(database, broker).await {
            Ok(()) => failure,
            Err(error) => {
                let (failure, reason) = (chain(failure.as_ref()), chain(error.as_ref()));
                anyhow!("{failure}. New queues remain, unused, until the next change: {reason}")
            }
        }
    }

    /// Deletes all that may be there of the version.
    async fn delete(&self, database: &mut PgConnection, broker: &Broker) -> Result<()> {
        let connection =
            while_locked(database, async { Ok(broker.connect(PURPOSE).await?) }).await?;
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
        // The sign is last, and stays while more may come, so that what remains is deleted by the next command.
        let sign = (!self.are_being_declared).then(|| self.sign());
        let channel = in_time(database, connection.create_channel()).await?;
        for exchange in [Some(self.topology.dead_letter_queue()), sign].into_iter().flatten() {
            let options = ExchangeDeleteOptions::default();
            in_time(database, channel.exchange_delete(exchange.into(), options)).await?;
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
    while_locked(database, step).await
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
