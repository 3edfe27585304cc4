//! Changes the shape of the queues while gateways and workers run.
//!
//! A component's updates keep their order because they all take one queue. With another number of
//! partitions they take another one, and the last of the old queue must have taken effect before the
//! first of the new one is consumed. So: gateways stop, the exchanges are deleted, workers empty the old
//! queues and leave them, each queue is proved to be empty (`proof`), and only then does the record
//! name new ones. A command that dies on the way is taken back by the workers (`store/topology.rs`).

mod proof;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lapin::{
    Channel, Connection,
    options::{ExchangeDeleteOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde::Serialize;
use shared::{
    broker::Broker,
    telemetry::chain,
    topology::{Phase, Recorded, Topology},
};
use sqlx::PgConnection;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::proof::is_marker;
use self::proof::{HeldQueue, hold_all};
use crate::store::{
    command_lock,
    topology::{end_when_stalled, expect_all_read, may_stall, record},
    workers::{self, MemberId},
};

/// Time in which every gateway sees that it is to stop: it looks twice a second.
const NOTICE: Duration = Duration::from_secs(1);
/// Time in which the old queues must be empty, or all stays as it was: gateways answer 503 meanwhile.
const DRAIN_LIMIT: Duration = Duration::from_secs(7);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time for RabbitMQ to end a connection.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What an operator sees of the deployment.
#[derive(Debug, Serialize)]
pub(crate) struct QueueLayout {
    pub(crate) version: i32,
    pub(crate) partitions: u16,
    pub(crate) queue_limit: u32,
    pub(crate) prefetch: u16,
    pub(crate) wire: u16,
    pub(crate) phase: &'static str,
    /// The live workers, in the order in which the partitions are assigned.
    pub(crate) workers: Vec<i64>,
}

/// What is to be changed; what is not named stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopologyChange {
    /// Queues that the components are spread over.
    pub(crate) partitions: Option<u16>,
    /// Messages that one queue holds.
    pub(crate) queue_limit: Option<u32>,
    /// Messages of one queue that a worker holds.
    pub(crate) prefetch: Option<u16>,
    /// The newest version of messages that gateways write.
    pub(crate) wire: Option<u16>,
}

/// The shape of the queues, and who works on them.
///
/// # Errors
/// When the database is not prepared, or fails.
pub(crate) async fn show(database: &mut PgConnection) -> Result<QueueLayout> {
    let Recorded { topology, phase } = Recorded::read(database).await?;
    let workers = workers::live(database).await?;
    Ok(QueueLayout {
        version: topology.version,
        partitions: topology.partitions,
        queue_limit: topology.queue_limit,
        prefetch: topology.prefetch,
        wire: topology.wire,
        phase: phase.word(),
        workers: workers.into_iter().map(|MemberId(id)| id).collect(),
    })
}

/// Changes the shape of the queues. Gateways answer 503 for some seconds. Killed at any point, it is
/// taken back by the workers, unless it was done already.
///
/// # Errors
/// When the old queues are not empty in time, for one because no worker lives, or on `stop`: all is as
/// it was then. And when RabbitMQ or the database fails.
pub(crate) async fn change(
    database: &mut PgConnection,
    broker: &Broker,
    wanted: TopologyChange,
    stop: &CancellationToken,
) -> Result<String> {
    let change =
        async |database: &mut PgConnection| change_alone(database, broker, wanted, stop).await;
    command_lock::alone(database, change).await
}

async fn change_alone(
    database: &mut PgConnection,
    broker: &Broker,
    wanted: TopologyChange,
    stop: &CancellationToken,
) -> Result<String> {
    let Recorded { topology: old, phase } = Recorded::read(database).await?;
    let new = Topology {
        version: old.version + 1,
        partitions: wanted.partitions.unwrap_or(old.partitions),
        queue_limit: wanted.queue_limit.unwrap_or(old.queue_limit),
        prefetch: wanted.prefetch.unwrap_or(old.prefetch),
        wire: wanted.wire.unwrap_or(old.wire),
    };
    if (Topology { version: old.version, ..new }) == old {
        // An earlier change may have been killed.
        record(database, old, old, Phase::Open).await?;
        return Ok(match phase {
            Phase::Open => "That is the shape already.".to_owned(),
            Phase::Draining | Phase::Closed => {
                "The queues are open again, as they were.".to_owned()
            }
        });
    }
    // Before the queues are closed; it is checked again together with the record.
    expect_all_read(database, new.wire).await?;
    let connection = broker.connect("worker: topology").await?;
    let channel = connection.create_channel().await?;
    end_when_stalled(database).await?;

    record(database, old, old, Phase::Draining).await?;
    let emptied = tokio::select! {
        emptied = timeout(NOTICE + DRAIN_LIMIT, empty(database, broker, &channel, old)) => emptied
            .unwrap_or_else(|_| Err(anyhow!("the queues were not empty within {} s; do workers run?",
                DRAIN_LIMIT.as_secs()))),
        () = stop.cancelled() => Err(anyhow!("stopped by a signal")),
    };
    let emptied = match emptied {
        Ok(emptied) => emptied,
        Err(error) => {
            record(database, old, old, Phase::Open).await.context(
                "nothing was changed, but the queues are closed: a worker opens them again within \
                seconds; if none runs, start one or run this again",
            )?;
            return Err(error.context("nothing was changed, and updates are taken again"));
        }
    };
    record(database, old, new, Phase::Open).await.context(
        "whether it was changed is not known, `worker topology show` tells: if it was not, a worker \
        opens the queues again within seconds",
    )?;
    // From here on a stall does no harm, nor a limit that can't be lifted.
    drop(may_stall(database).await);
    let said = format!(
        "Updates take {} partitions of at most {} messages; a worker holds {} of each; gateways write \
        version {} of messages. Where \
        SDB_PARTITIONS, SDB_QUEUE_LIMIT or SDB_PREFETCH are set, set them to that before the next \
        restart.",
        new.partitions, new.queue_limit, new.prefetch, new.wire
    );
    let deleted = emptied.delete(&channel, old).await;
    close(&connection).await;
    Ok(match deleted {
        Ok(()) => said,
        Err(error) => {
            let reason = chain(error.as_ref());
            format!("{said} Old queues stay behind, and nobody uses them: {reason}")
        }
    })
}

/// Waits until the queues are empty and no worker holds anything of them; they are closed then.
async fn empty(
    database: &mut PgConnection,
    broker: &Broker,
    channel: &Channel,
    topology: Topology,
) -> Result<Emptied> {
    sleep(NOTICE).await;
    // A gateway that is cut off from the database does not know; without the exchanges, what it
    // publishes is refused.
    for exchange in [topology.exchange(), topology.publish_exchange()] {
        channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
    }
    loop {
        // These counts only tell when to look: the proof comes last.
        while look(channel, topology).await?.waiting > 0 {
            sleep(LOOK_EVERY).await;
        }
        // What a worker holds is not seen from here, so all have to let go.
        record(database, topology, topology, Phase::Closed).await?;
        while look(channel, topology).await?.consumers > 0 {
            sleep(LOOK_EVERY).await;
        }
        if let Some(emptied) = Emptied::prove(broker, topology).await? {
            return Ok(emptied);
        }
        // A worker was killed with something in its hands, or something came late.
        record(database, topology, topology, Phase::Draining).await?;
    }
}

/// The old queues, each proved to be empty, and the connection that holds them.
struct Emptied {
    connection: Connection,
    held: Vec<HeldQueue>,
}

impl Emptied {
    /// None if a queue is not empty; what it holds is there again for the workers then, in order.
    async fn prove(broker: &Broker, topology: Topology) -> Result<Option<Self>> {
        let connection = broker.connect("worker: topology, empty queues").await?;
        let proved = match hold_all(&connection, topology, queues(topology)).await {
            // Something may have come while the others were still being proved.
            Ok(Some(mut held)) => Ok((!held.iter_mut().any(HeldQueue::has_more)).then_some(held)),
            other => other,
        };
        match proved {
            Ok(Some(held)) => Ok(Some(Self { connection, held })),
            other => {
                close(&connection).await;
                other.map(|_| None)
            }
        }
    }

    /// Deletes the queues, but for those that got something since, which should be impossible.
    async fn delete(self, channel: &Channel, topology: Topology) -> Result<()> {
        let mut kept = Vec::new();
        for mut held in self.held {
            if held.has_more() {
                kept.push(held.queue.clone());
            } else {
                held.delete().await?;
            }
        }
        close(&self.connection).await;
        if !kept.is_empty() {
            bail!("after they were closed, something was published to {}", kept.join(", "));
        }
        // The exchange of the dead letters has the same name as their queue.
        let dead = topology.dead_letter_queue();
        channel.exchange_delete(dead.into(), ExchangeDeleteOptions::default()).await?;
        Ok(())
    }
}

/// Ends a connection; RabbitMQ takes back what its consumers hold.
async fn close(connection: &Connection) {
    if !matches!(timeout(CLOSE_LIMIT, connection.close(200, "done".into())).await, Ok(Ok(()))) {
        tracing::debug!("a connection did not end in time");
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
