//! Changes the number of partitions and the other properties of the topology while gateways and workers
//! run.
//!
//! The updates of a component keep their order because they all pass through one queue. With another
//! number of partitions they pass through another queue, and the last update of the old queue must be
//! applied before the first one of the new queue is consumed. So the new queues are declared (`new_queues`),
//! gateways stop publishing, the exchanges are deleted, workers drain the old queues and stop consuming, each
//! queue is proved to be empty (`empty_queue_proof`), and only then are the new queues recorded. If the
//! command dies on the way, the workers undo it (`store/topology.rs`).

mod empty_queue_proof;
mod new_queues;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lapin::{
    Channel, Connection,
    options::{ExchangeDeleteOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde::Serialize;
use shared::{
    amqp::{
        broker::Broker,
        topology::{Phase, Recorded, Topology},
    },
    telemetry::chain,
    wire::message::REPORTS,
};
use sqlx::PgConnection;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    empty_queue_proof::{HeldQueue, hold_all},
    new_queues::NewQueues,
};
use crate::store::{
    command_locks,
    topology::{end_when_stalled, expect_all_read, may_stall, record, while_locked},
    workers::{self, MemberId},
};

/// Time after which every gateway has stopped publishing: it reads the record twice a second.
const NOTICE: Duration = Duration::from_secs(1);
/// Time limit for draining the old queues, after which the change is undone: gateways answer 503
/// meanwhile.
const DRAIN_LIMIT: Duration = Duration::from_secs(7);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time for RabbitMQ to open a channel.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// Time for RabbitMQ to end a connection.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
const UNCHANGED: &str = "nothing was changed";
const UNDONE: &str = "nothing was changed, and updates are taken again";

/// The topology and the workers, as shown to an operator.
#[derive(Debug, Serialize)]
pub(crate) struct QueueLayout {
    pub(crate) version: i32,
    pub(crate) partitions: u16,
    pub(crate) queue_limit: u32,
    pub(crate) prefetch: u16,
    pub(crate) wire: u16,
    pub(crate) arguments: u16,
    pub(crate) phase: &'static str,
    /// The live workers, in the order in which the partitions are assigned.
    pub(crate) workers: Vec<i64>,
}

/// The changes; properties that are none stay as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopologyChange {
    /// Number of queues that the components are distributed over.
    pub(crate) partitions: Option<u16>,
    /// Messages that one queue holds.
    pub(crate) queue_limit: Option<u32>,
    /// Messages of one queue that a worker holds.
    pub(crate) prefetch: Option<u16>,
    /// The newest version of messages that gateways write.
    pub(crate) wire: Option<u16>,
    /// The version of the queues' arguments.
    pub(crate) arguments: Option<u16>,
}

/// The topology, and the live workers.
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
        arguments: topology.arguments,
        phase: phase.word(),
        workers: workers.into_iter().map(|MemberId(id)| id).collect(),
    })
}

/// Changes the topology. Gateways answer 503 for some seconds. If it is killed at any point, the workers
/// undo it, unless it was complete.
///
/// # Errors
/// When the old queues are not empty in time, for example because no worker is alive, or on `stop`:
/// nothing is changed then. And when RabbitMQ or the database fails.
pub(crate) async fn change(
    database: &mut PgConnection,
    broker: &Broker,
    wanted: TopologyChange,
    stop: &CancellationToken,
) -> Result<String> {
    let change =
        async |database: &mut PgConnection| change_alone(database, broker, wanted, stop).await;
    command_locks::alone(database, change).await
}

async fn change_alone(
    database: &mut PgConnection,
    broker: &Broker,
    wanted: TopologyChange,
    stop: &CancellationToken,
) -> Result<String> {
    let Recorded { topology: old, phase } = Recorded::read(database).await?;
    let new = wanted.applied_to(old);
    if (Topology { version: old.version, ..new }) == old {
        // An earlier change may have been killed.
        record(database, old, old, Phase::Open).await?;
        return Ok(match phase {
            Phase::Open => "That is the topology already.".to_owned(),
            Phase::Draining | Phase::Closed => {
                "The queues are open again, as they were.".to_owned()
            }
        });
    }
    // Checked before the queues are closed, and again when the new topology is recorded.
    expect_all_read(database, new.wire).await?;
    if phase != Phase::Open {
        // An earlier change was killed. Its queues are not kept closed while new ones are declared.
        record(database, old, old, Phase::Open).await?;
    }
    end_when_stalled(database).await?;
    let new_queues = NewQueues::make(database, broker, new, stop).await?;
    match replace(database, broker, old, &new_queues, stop).await {
        Ok(said) => Ok(said),
        Err(error) => Err(new_queues.discard(database, broker, error).await),
    }
}

/// Empties the old queues and records the new ones.
async fn replace(
    database: &mut PgConnection,
    broker: &Broker,
    old: Topology,
    new_queues: &NewQueues,
    stop: &CancellationToken,
) -> Result<String> {
    let connecting = async { Ok(broker.connect("worker: topology").await?) };
    let connection = while_locked(database, connecting).await.context(UNCHANGED)?;
    let opening = async { Ok(timeout(OPEN_LIMIT, connection.create_channel()).await??) };
    let channel = while_locked(database, opening).await.context(UNCHANGED)?;

    let new = new_queues.topology;
    let emptied = empty_or_undo(database, broker, &channel, old, new_queues, stop).await?;
    if let Err(error) = record(database, old, new, Phase::Open).await {
        close(&emptied.connection).await;
        // The record has one version: if it is open as it was, it was not changed.
        if record(database, old, old, Phase::Open).await.is_ok() {
            return Err(error.context(UNDONE));
        }
        return Err(error.context(
            "whether it was changed is not known, `worker topology show` tells: if it was not, a worker \
            opens the queues again within seconds",
        ));
    }
    // From here on a stall is harmless, and so is a time limit that can't be reset.
    drop(may_stall(database).await);
    let deleted = emptied.delete(&channel, old).await;
    close(&connection).await;
    let said = changed(old, new);
    Ok(match deleted {
        Ok(()) => said,
        Err(error) => {
            let reason = chain(error.as_ref());
            format!("{said} Old queues remain, unused: {reason}")
        }
    })
}

impl TopologyChange {
    /// The next topology.
    fn applied_to(self, old: Topology) -> Topology {
        Topology {
            version: old.version + 1,
            partitions: self.partitions.unwrap_or(old.partitions),
            queue_limit: self.queue_limit.unwrap_or(old.queue_limit),
            prefetch: self.prefetch.unwrap_or(old.prefetch),
            wire: self.wire.unwrap_or(old.wire),
            arguments: self.arguments.unwrap_or(old.arguments),
        }
    }
}

/// The message after a change.
fn changed(old: Topology, new: Topology) -> String {
    // Gateways are recorded nowhere.
    let warning = if old.wire < REPORTS && new.wire >= REPORTS {
        " Gateways of earlier releases must not run any more: what they take begins no report, so that any `ok` \
        ends its incident."
    } else {
        ""
    };
    format!(
        "Updates take {}; a worker holds {} of each; gateways write \
        version {} of messages.{warning} Where SDB_PARTITIONS, SDB_QUEUE_LIMIT or SDB_PREFETCH are set, set \
        them to that before the next restart.",
        new.sizes(),
        new.prefetch,
        new.wire
    )
}

/// Closes and drains the queues of a topology. If that fails, or on `stop`, opens them again.
async fn empty_or_undo(
    database: &mut PgConnection,
    broker: &Broker,
    channel: &Channel,
    topology: Topology,
    new_queues: &NewQueues,
    stop: &CancellationToken,
) -> Result<Emptied> {
    record(database, topology, topology, Phase::Draining).await?;
    let emptying = async {
        let emptied = empty(database, broker, channel, topology).await?;
        new_queues.are_recorded_next(channel).await?;
        Ok(emptied)
    };
    let emptying = timeout(NOTICE + DRAIN_LIMIT, emptying);
    let emptied = tokio::select! {
        emptied = emptying => emptied
            .unwrap_or_else(|_| Err(anyhow!("the queues were not empty within {} s; do workers run?",
                DRAIN_LIMIT.as_secs()))),
        () = stop.cancelled() => Err(anyhow!("stopped by a signal")),
    };
    let Err(error) = emptied else { return emptied };
    record(database, topology, topology, Phase::Open).await.context(
        "nothing was changed, but the queues are closed: a worker opens them again within \
        seconds; if none runs, start one or run this again",
    )?;
    Err(error.context(UNDONE))
}

/// Waits until the queues are empty and no worker holds messages of them; they are closed then.
async fn empty(
    database: &mut PgConnection,
    broker: &Broker,
    channel: &Channel,
    topology: Topology,
) -> Result<Emptied> {
    sleep(NOTICE).await;
    // A gateway without a connection to the database does not notice; without the exchanges, what it
    // publishes is refused.
    for exchange in [topology.exchange(), topology.publish_exchange()] {
        channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
    }
    loop {
        // These counts only show when to attempt the proof.
        while look(channel, topology).await?.waiting > 0 {
            sleep(LOOK_EVERY).await;
        }
        // Messages that workers hold are not visible here, so all workers must stop consuming.
        record(database, topology, topology, Phase::Closed).await?;
        while look(channel, topology).await?.consumers > 0 {
            sleep(LOOK_EVERY).await;
        }
        if let Some(emptied) = Emptied::prove(broker, topology).await? {
            return Ok(emptied);
        }
        // A worker was killed while it held messages, or a message arrived late.
        record(database, topology, topology, Phase::Draining).await?;
    }
}

/// The old queues, each proved to be empty, and the connection that holds them.
struct Emptied {
    connection: Connection,
    held: Vec<HeldQueue>,
}

impl Emptied {
    /// None if a queue is not empty; its messages are returned to the workers then, in order.
    async fn prove(broker: &Broker, topology: Topology) -> Result<Option<Self>> {
        let connection = broker.connect("worker: topology, empty queues").await?;
        let proved = match hold_all(&connection, topology, topology.queues()).await {
            // A message may have arrived while other queues were being proved.
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

    /// Deletes the queues, except those that received a message since, which should be impossible.
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
        // The dead-letter exchange has the same name as its queue.
        let dead = topology.dead_letter_queue();
        channel.exchange_delete(dead.into(), ExchangeDeleteOptions::default()).await?;
        Ok(())
    }
}

/// Closes a connection; RabbitMQ requeues what its consumers hold.
/// Returns whether it has.
async fn close(connection: &Connection) -> bool {
    let closed = timeout(CLOSE_LIMIT, connection.close(200, "done".into())).await;
    let is_closed = matches!(closed, Ok(Ok(())));
    if !is_closed {
        tracing::debug!("a connection did not end in time");
    }
    is_closed
}

/// The messages and consumers of the queues.
#[derive(Clone, Copy, Default)]
struct Left {
    waiting: u32,
    consumers: u32,
}

async fn look(channel: &Channel, topology: Topology) -> Result<Left> {
    let mut left = Left::default();
    for queue in topology.queues() {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await?;
        left.waiting += declared.message_count();
        left.consumers += declared.consumer_count();
    }
    Ok(left)
}
