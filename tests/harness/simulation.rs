//! A simulation: histories of updates, redeliveries, deaths, stalls, takeovers and edits by others,
//! drawn at random, on a real PostgreSQL with the real transaction. Only RabbitMQ and the processes
//! are played: queues that deliver in order, to one worker each, and again what was not acknowledged.
//!
//! After every batch the database must be what the naive model makes of the same updates, and at the
//! end every update must have taken effect once and in order, or stand parked with a reason.

mod history;
mod rig;

use anyhow::{Context, Result, anyhow};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner},
};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::runtime::Handle;

pub use self::history::{Edit, End, Flaw, History, Pick, Step};
use self::rig::Rig;

/// Prepares an empty database for simulations.
pub async fn prepare(database_uri: &str) -> Result<()> {
    let options: PgConnectOptions = database_uri.parse()?;
    let mut database = options.connect().await?;
    let settings = shared::settings::Settings::new([]);
    worker::migrate::migrate(&mut database, &settings).await?;
    // Nobody pulls the plug of this server, and a history has a hundred commits.
    let name = options.get_database().context("a database without a name")?;
    let statement = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut database).await?;
    Ok(database.close().await?)
}

/// Plays one history from an empty database.
///
/// # Errors
/// When something is not as it must be.
pub async fn play(database_uri: &str, history: &History) -> Result<()> {
    let mut rig = Rig::new(database_uri).await?;
    for (place, step) in history.0.iter().enumerate() {
        rig.take(step).await.with_context(|| format!("step {place}, {step:?}"))?;
    }
    rig.end().await.context("at the end")
}

/// Plays so many histories, drawn from a seed; the shortest one that fails is the error. To be called
/// where it may block, with the runtime that the connections live on.
///
/// # Errors
/// When something is not as it must be.
pub fn play_many(database_uri: &str, seed: u64, histories: u32, runtime: &Handle) -> Result<()> {
    let config = Config {
        cases: histories,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let drawn = history::histories().prop_map(Box::new);
    let played = TestRunner::new(config).run(&drawn, |history| {
        let played = runtime.block_on(play(database_uri, &history));
        played.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    played.map_err(|error| match error {
        TestError::Fail(reason, history) => anyhow!("seed {seed}: {reason}\nin {history:#?}"),
        TestError::Abort(reason) => anyhow!("seed {seed}: {reason}"),
    })
}

/// A connection to the database of a simulation.
async fn connect(database_uri: &str) -> Result<PgConnection> {
    Ok(PgConnection::connect(database_uri).await?)
}
