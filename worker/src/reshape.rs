//! Changes the shape of the queues while gateways and workers run.
//!
//! A component's updates keep their order because they all take one queue. With another number of
//! partitions they take another one, and the last of the old queue must have taken effect before the
//! first of the new one is consumed. So: gateways stop, the exchange goes, workers empty the old
//! queues and leave them, and only then does the record name new ones.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, bail};
use lapin::{
    Channel,
    options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use serde::Serialize;
use shared::{
    broker::Broker,
    telemetry::chain,
    topology::{Phase, Recorded, Topology},
};
use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{membership::MemberId, migrate};

/// Time in which every gateway sees that it is to stop: it looks twice a second.
const NOTICE: Duration = Duration::from_secs(1);
/// Time in which the old queues must be empty, or all stays as it was: gateways answer 503 meanwhile.
const DRAIN_LIMIT: Duration = Duration::from_secs(7);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What an operator sees of the deployment.
#[derive(Debug, Serialize)]
pub struct Shape {
    version: i32,
    partitions: u16,
    queue_limit: u32,
    prefetch: u16,
    phase: &'static str,
    /// The workers that live, in the order in which the partitions are dealt out.
    workers: Vec<i64>,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "partitions:  {}", self.partitions)?;
        writeln!(f, "queue limit: {} updates", self.queue_limit)?;
        writeln!(f, "prefetch:    {} updates", self.prefetch)?;
        writeln!(f, "version:     {}, {}", self.version, self.phase)?;
        let workers: Vec<String> = self.workers.iter().map(i64::to_string).collect();
        write!(
            f,
            "workers:     {}",
            if workers.is_empty() { "none".into() } else { workers.join(", ") }
        )
    }
}

/// What is to be changed; what is not named stays.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Queues that the components are spread over.
    pub partitions: Option<u16>,
    /// Updates that one queue holds.
    pub queue_limit: Option<u32>,
    /// Updates of one queue that a worker holds.
    pub prefetch: Option<u16>,
}

/// The shape of the queues, and who works on them.
///
/// # Errors
/// When the database is not prepared, or fails.
pub async fn show(database: &mut PgConnection) -> Result<Shape> {
    let Recorded { topology, phase } = Recorded::read(database).await?;
    let workers: Vec<MemberId> = sqlx::query_scalar("SELECT id FROM sdb_living_worker ORDER BY id")
        .fetch_all(database)
        .await?;
    Ok(Shape {
        version: topology.version,
        partitions: topology.partitions,
        queue_limit: topology.queue_limit,
        prefetch: topology.prefetch,
        phase: phase.word(),
        workers: workers.into_iter().map(|member| member.0).collect(),
    })
}

/// Changes the shape of the queues. Gateways answer 503 for some seconds. Killed at any point, it can
/// be run again.
///
/// # Errors
/// When the old queues are not empty in time, for one because no worker lives, or on `stop`: all is as
/// it was then. And when RabbitMQ or the database fails.
pub async fn change(
    database: &mut PgConnection,
    broker: &Broker,
    wanted: Wanted,
    stop: &CancellationToken,
) -> Result<String> {
    let change =
        async |database: &mut PgConnection| change_alone(database, broker, wanted, stop).await;
    migrate::alone(database, change).await
}

async fn change_alone(
    database: &mut PgConnection,
    broker: &Broker,
    wanted: Wanted,
    stop: &CancellationToken,
) -> Result<String> {
    let Recorded { topology: old, phase } = Recorded::read(database).await?;
    let new = Topology {
        version: old.version + 1,
        partitions: wanted.partitions.unwrap_or(old.partitions),
        queue_limit: wanted.queue_limit.unwrap_or(old.queue_limit),
        prefetch: wanted.prefetch.unwrap_or(old.prefetch),
    };
    if (Topology { version: old.version, ..new }) == old {
        // An earlier change may have been killed.
        record(database, old, Phase::Open).await?;
        return Ok(match phase {
            Phase::Open => "That is the shape already.".to_owned(),
            Phase::Draining | Phase::Closed => {
                "The queues are open again, as they were.".to_owned()
            }
        });
    }
    let connection = broker.connect("worker: topology").await?;
    let channel = connection.create_channel().await?;

    record(database, old, Phase::Draining).await?;
    let emptied = tokio::select! {
        emptied = timeout(NOTICE + DRAIN_LIMIT, empty(database, &channel, old)) => emptied
            .unwrap_or_else(|_| bail!("the queues were not empty within {} s; do workers run?",
                DRAIN_LIMIT.as_secs())),
        () = stop.cancelled() => bail_stopped(),
    };
    if let Err(error) = emptied {
        record(database, old, Phase::Open)
            .await
            .context("nothing was changed, but the queues are closed: run this again")?;
        return Err(error.context("nothing was changed, and updates are taken again"));
    }
    record(database, new, Phase::Open)
        .await
        .context("the queues are closed, under their old names or new ones: run this again")?;
    let said = format!(
        "Updates take {} partitions of at most {} updates; a worker holds {} of each. Where \
        SDB_PARTITIONS, SDB_QUEUE_LIMIT or SDB_PREFETCH are set, set them to that before the next \
        restart.",
        new.partitions, new.queue_limit, new.prefetch
    );
    if let Err(error) = delete(&channel, old).await {
        let reason = chain(error.as_ref());
        return Ok(format!("{said} The old queues, which are empty, stay behind: {reason}"));
    }
    // All is done: how the connection ends changes nothing.
    drop(connection.close(200, "done".into()).await);
    Ok(said)
}

fn bail_stopped() -> Result<()> {
    bail!("stopped by a signal")
}

/// Records a topology and its phase. Nobody declares queues meanwhile.
async fn record(database: &mut PgConnection, topology: Topology, phase: Phase) -> Result<()> {
    let mut transaction = database.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sdb_topology'))")
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "UPDATE sdb_topology SET version = $1, partitions = $2, queue_limit = $3, prefetch = $4,
            phase = $5",
    )
    .bind(topology.version)
    .bind(i32::from(topology.partitions))
    .bind(i32::try_from(topology.queue_limit)?)
    .bind(i32::from(topology.prefetch))
    .bind(phase.word())
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Waits until the queues are empty and no worker holds anything of them; they are closed then.
async fn empty(database: &mut PgConnection, channel: &Channel, topology: Topology) -> Result<()> {
    sleep(NOTICE).await;
    // A gateway that is cut off from the database does not know; without the exchange, what it
    // publishes is refused.
    channel.exchange_delete(topology.exchange().into(), ExchangeDeleteOptions::default()).await?;
    loop {
        while look(channel, topology).await?.waiting > 0 {
            sleep(LOOK_EVERY).await;
        }
        // What a worker holds is not seen from here, so all have to let go.
        record(database, topology, Phase::Closed).await?;
        let left = loop {
            let left = look(channel, topology).await?;
            if left.consumers == 0 {
                break left;
            }
            sleep(LOOK_EVERY).await;
        };
        if left.waiting == 0 {
            return Ok(());
        }
        // One was killed with something in its hands.
        record(database, topology, Phase::Draining).await?;
    }
}

/// What is in the queues.
#[derive(Clone, Copy, Default)]
struct Left {
    waiting: u32,
    consumers: u32,
}

async fn look(channel: &Channel, topology: Topology) -> Result<Left> {
    let mut left = Left::default();
    for queue in queues(topology) {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await?;
        left.waiting += declared.message_count();
        left.consumers += declared.consumer_count();
    }
    Ok(left)
}

fn queues(topology: Topology) -> impl Iterator<Item = String> {
    let partitions = (0..topology.partitions).map(move |partition| topology.queue(partition));
    partitions.chain([topology.dead_letter_queue()])
}

/// Deletes the old queues, which are empty.
async fn delete(channel: &Channel, topology: Topology) -> Result<()> {
    for queue in queues(topology) {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    // The exchange of the dead letters has the same name as their queue.
    let dead = topology.dead_letter_queue();
    channel.exchange_delete(dead.into(), ExchangeDeleteOptions::default()).await?;
    Ok(())
}
