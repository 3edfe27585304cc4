//! Starts the tasks of a worker, and stops them in two stages.

use std::{future::ready, net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    amqp::topology::{Topology, TopologyError},
    database::Database,
    http::admin::{self, AdminError},
    process::{service_manager, supervise},
    settings::Settings,
    telemetry::chain,
    throttled,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    apply_affected,
    broker::{BrokenQueues, Consumer, ReplySender},
    config::Config,
    housekeeping::Housekeeping,
    observe::{blockers::Blockers, http, readiness::Readiness, sampling},
};

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address for health and metrics can't be taken.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The database is not prepared, or its topology is not the settings'.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// Pause before another attempt to take part. It doubles while attempts fail soon.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(4);
/// After a part that lasted longer, the first attempt follows soon.
const LONG_PART: Duration = Duration::from_secs(10);
/// Time for the replies to the last batch.
const REPLY_LIMIT: Duration = Duration::from_secs(1);
/// Time for the last batch after `stop`.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Consumes until `stop`. The broker and the database may be unavailable meanwhile.
///
/// # Errors
/// When the database is not prepared, or its topology is not the settings', or when the address for
/// health and metrics can't be taken.
pub async fn run(
    config: Config,
    settings: &Settings,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let servers = config.database.servers().clone();
    let readiness = Readiness::new(config.broker.clone(), servers.clone(), stop.clone());
    let readiness = Arc::new(readiness);
    let starting = readiness.clone();
    service_manager::report(move || ready(starting.ready()));
    let watching = supervise::keep("servers of PostgreSQL", servers.watch());
    let _watching = AbortOnDropHandle::new(watching);
    // Served first, so that readiness shows what the worker waits for.
    let _admin = match config.admin {
        Some(address) => Some(serve_admin(address, readiness.clone()).await?),
        None => None,
    };
    let mut housekeeping =
        Housekeeping::new(Database::new(config.database.clone()), config.inbox_days);
    tokio::select! {
        recorded = Topology::read_once_up(&config.database, settings) => drop(recorded?),
        () = stop.cancelled() => return Ok(()),
    };
    // Without partitions the inbox accepts no rows.
    tokio::select! {
        () = housekeeping.once() => {}
        () = stop.cancelled() => return Ok(()),
    }
    let _housekeeping = AbortOnDropHandle::new(supervise::keep("housekeeping", housekeeping.run()));
    let applying = apply_affected::apply(Database::new(config.database.clone()));
    let _applying = AbortOnDropHandle::new(supervise::keep("affected components", applying));
    readiness.waiting_for("RabbitMQ has not answered yet");
    let _measuring = config.admin.map(|_| {
        let database = Database::new(config.database.clone());
        let measuring = sampling::database(database, config.inbox_days);
        AbortOnDropHandle::new(supervise::keep("sampling", measuring))
    });

    consume(config, readiness, &stop).await;
    tracing::info!("stopped");
    Ok(())
}

/// Serves health and metrics until the returned value is dropped.
async fn serve_admin(
    address: SocketAddr,
    readiness: Arc<Readiness>,
) -> Result<AbortOnDropHandle<()>, AdminError> {
    let listener = admin::bind(address).await?;
    let serving = admin::serve(listener, http::router(readiness));
    Ok(AbortOnDropHandle::new(supervise::keep("health and metrics", serving)))
}

/// Consumes until `stop`, one session after the other; then waits for the last batch and its replies.
async fn consume(config: Config, readiness: Arc<Readiness>, stop: &CancellationToken) {
    let (replies, replying) = ReplySender::start(config.broker.clone());
    let abandon = CancellationToken::new();
    let limit = cancel_after(stop.clone(), DRAIN_LIMIT, abandon.clone());
    let limit = supervise::spawn("drain limit", limit);
    let consumer = Consumer {
        broker: config.broker,
        blockers: Blockers::new(config.database.clone()),
        database: Mutex::new(Database::new(config.database)),
        batch: config.batch,
        inbox_days: config.inbox_days,
        replies,
        broken: BrokenQueues::default(),
        readiness,
        is_measured: config.admin.is_some(),
        stop: stop.clone(),
        abandon,
    };
    let mut waits = RECONNECT_PAUSE;
    while !stop.is_cancelled() {
        let began = Instant::now();
        if let Err(error) = consumer.take_part().await {
            let reason = chain(&error);
            let line = "consuming stopped; unacknowledged messages will be redelivered";
            throttled!(warn, &reason, reason, "{line}");
            consumer.readiness.unavailable(reason);
            if began.elapsed() > LONG_PART {
                waits = RECONNECT_PAUSE;
            }
            pause(waits, stop).await;
            waits = (waits * 2).min(MAX_RECONNECT_PAUSE);
        }
    }
    limit.abort();
    // The replies to the last batch are still on their way.
    drop(consumer);
    if timeout(REPLY_LIMIT, replying).await.is_err() {
        tracing::debug!("the last replies were not sent: their receipts have the outcome");
    }
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
