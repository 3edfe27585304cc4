//! Runs the worker.

use std::time::Duration;

use shared::{
    settings::Settings,
    telemetry::chain,
    topology::{Topology, TopologyError},
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, consumer::Consumer, inbox, replies::ReplySender};

/// One for the batch, one for the upkeep of the inbox.
const CONNECTIONS: u32 = 2;
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
const UPKEEP_EVERY: Duration = Duration::from_secs(3600);
/// Time for the last batch after `stop`.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Consumes until `stop`. Broker and database may come and go meanwhile.
///
/// # Errors
/// When the database is not prepared, or its topology is not the settings'.
pub async fn run(
    config: Config,
    settings: &Settings,
    stop: CancellationToken,
) -> Result<(), TopologyError> {
    let database = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE_LIMIT)
        .connect_lazy_with(config.database.clone());
    let topology = tokio::select! {
        topology = Topology::read_once_up(&config.database, settings) => topology?,
        () = stop.cancelled() => return Ok(()),
    };
    let upkeep = tokio::spawn(upkeep(database.clone(), config.inbox_days));

    let replies = ReplySender::start(config.broker.clone());
    let consumer =
        Consumer { broker: config.broker, topology, database, batch: config.batch, replies };
    let drain_limit = async {
        stop.cancelled().await;
        sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        () = consume(&consumer, &stop) => tracing::info!("stopped"),
        () = drain_limit => tracing::warn!(
            "stopped with a batch unfinished: it is delivered again, to this worker or another"
        ),
    }
    upkeep.abort();
    Ok(())
}

async fn consume(consumer: &Consumer, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = consumer.session(stop).await {
            tracing::warn!(
                reason = chain(&error),
                "the session with RabbitMQ ended: connecting again"
            );
            pause(RECONNECT_PAUSE, stop).await;
        }
    }
}

/// Sleeps, unless stopped before or meanwhile.
async fn pause(time: Duration, stop: &CancellationToken) {
    // Both ends are fine: the caller looks at `stop` next.
    timeout(time, stop.cancelled()).await.unwrap_or_default();
}

/// Keeps the inbox in shape for as long as the worker runs.
async fn upkeep(database: PgPool, inbox_days: u32) {
    loop {
        let kept = async {
            let mut connection = database.acquire().await?;
            inbox::keep(&mut connection, inbox_days).await
        };
        let next = match kept.await {
            Ok(()) => UPKEEP_EVERY,
            Err(error) => {
                tracing::warn!(reason = chain(&error), "the inbox's upkeep failed: trying again");
                Duration::from_secs(10)
            }
        };
        sleep(next).await;
    }
}
