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
const UPKEEP_PAUSE: Duration = Duration::from_secs(5);
/// Time for the replies to the last batch.
const REPLY_LIMIT: Duration = Duration::from_secs(1);
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
    // Without its parts the inbox takes nothing.
    tokio::select! {
        () = keep_inbox(&database, config.inbox_days) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let upkeep = tokio::spawn(upkeep(database.clone(), config.inbox_days));

    let (replies, replying) = ReplySender::start(config.broker.clone());
    let abandon = CancellationToken::new();
    let limit = tokio::spawn(cancel_after(stop.clone(), DRAIN_LIMIT, abandon.clone()));
    let consumer = Consumer {
        broker: config.broker,
        topology,
        database,
        batch: config.batch,
        inbox_days: config.inbox_days,
        replies,
    };
    while !stop.is_cancelled() {
        if let Err(error) = consumer.session(&stop, &abandon).await {
            let reason = chain(&error);
            tracing::warn!(
                reason,
                "the session with RabbitMQ ended: its messages are delivered again"
            );
            pause(RECONNECT_PAUSE, &stop).await;
        }
    }
    limit.abort();
    upkeep.abort();
    // The replies to the last batch are still on their way.
    drop(consumer);
    if timeout(REPLY_LIMIT, replying).await.is_err() {
        tracing::debug!("the last replies were not sent: their receipts have the outcome");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Cancels `then` some time after `first` is cancelled.
async fn cancel_after(first: CancellationToken, time: Duration, then: CancellationToken) {
    first.cancelled().await;
    sleep(time).await;
    then.cancel();
}

/// Sleeps, unless stopped before or meanwhile.
async fn pause(time: Duration, stop: &CancellationToken) {
    // Both ends are fine: the caller looks at `stop` next.
    timeout(time, stop.cancelled()).await.unwrap_or_default();
}

/// Keeps the inbox in shape for as long as the worker runs.
async fn upkeep(database: PgPool, inbox_days: u32) {
    loop {
        sleep(UPKEEP_EVERY).await;
        keep_inbox(&database, inbox_days).await;
    }
}

/// Brings the inbox in shape, however often that takes.
async fn keep_inbox(database: &PgPool, inbox_days: u32) {
    loop {
        let kept = async {
            let mut connection = database.acquire().await?;
            inbox::keep(&mut connection, inbox_days).await
        };
        match kept.await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(reason = chain(&error), "the inbox's upkeep failed: trying again");
                sleep(UPKEEP_PAUSE).await;
            }
        }
    }
}
