//! A simulation: histories of updates, redeliveries, deaths, stalls, takeovers and edits by others,
//! drawn at random, on a real PostgreSQL with the real transaction. Only RabbitMQ and the processes
//! are played: queues that deliver in order, to one worker each, and again what was not acknowledged:
//! messages of one update, and envelopes, which the worker's own code unpacks.
//!
//! After every batch the database must be what the naive model makes of the same updates and of the
//! edits beside it, and at the end every update must have taken effect once and in order, or be parked
//! with the model's reason. [`verdict`] judges it.

mod history;
mod rig;

use std::{cell::RefCell, collections::BTreeMap};

use anyhow::{Context, Result, anyhow, ensure};
use model::delivery::Why;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner},
};
use shared::domain::outcome::Reason;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::runtime::Handle;

use self::rig::Rig;
pub use self::{
    history::{Edit, End, Flaw, History, Hold, Pick, Step, Update},
    rig::{Broken, Played},
};
use crate::verdict::{self, Compared};

/// So many histories must have had everything that histories can have.
const MANY: u32 = 100;

/// Prepares an empty database for simulations.
pub async fn prepare(database_uri: &str) -> Result<()> {
    let options: PgConnectOptions = database_uri.parse()?;
    let mut database = options.connect().await?;
    let settings = shared::settings::Settings::new([]);
    worker::schema::migrate(&mut database, &settings).await?;
    // Nobody pulls the plug of this server, and a history has a hundred commits.
    let name = options.get_database().context("a database without a name")?;
    let statement = format!(
        "ALTER DATABASE {name} SET synchronous_commit = off;
        ALTER DATABASE {name} SET deadlock_timeout = '50ms'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut database).await?;
    verdict::install(&mut database).await?;
    Ok(database.close().await?)
}

/// Plays one history from an empty database; what was compared is returned.
///
/// # Errors
/// When something is not as it must be.
pub async fn play(database_uri: &str, history: &History) -> Result<Compared> {
    let played = record(database_uri, history, None).await?;
    verdict::judge(&played.run).into_result()
}

/// Plays one history, perhaps with a worker that is broken, and returns what is left to be judged.
///
/// # Errors
/// When it can't be played to its end.
pub async fn record(
    database_uri: &str,
    history: &History,
    broken: Option<Broken>,
) -> Result<Played> {
    let mut rig = Rig::new(database_uri, broken).await?;
    for (place, step) in history.0.iter().enumerate() {
        rig.take(step).await.with_context(|| format!("step {place}, {step:?}"))?;
    }
    rig.end().await.context("at the end")
}

/// What many histories had, all in all.
#[derive(Debug, Default)]
pub struct Coverage {
    /// What was compared.
    pub compared: Compared,
    /// Workers that were killed or missed, and messages that came again.
    pub broken: usize,
    /// Updates that waited for rows that others held.
    pub deferred: usize,
    /// Updates that were posted in envelopes of several.
    pub together: usize,
    /// Batches that ended inside an envelope.
    pub cut: usize,
    /// Settled updates that came again with their envelopes.
    pub settled_again: usize,
}

impl Coverage {
    fn add(&mut self, compared: &Compared, played: &Played) {
        self.compared.add(compared);
        self.broken += played.broken;
        self.deferred += played.deferred;
        self.together += played.together;
        self.cut += played.cut;
        self.settled_again += played.settled_again;
    }

    /// A simulation that broke nothing, or compared nothing, says nothing.
    fn is_worth_something(&self) -> Result<()> {
        let Compared { decided, parked, foreign, beside, entries, intervals, keys, .. } =
            &self.compared;
        ensure!(self.broken > 0, "nothing was broken: {self:?}");
        for reason in Reason::ALL {
            ensure!(decided.contains_key(reason.word()), "no update was {reason}: {self:?}");
        }
        let whys = [
            Why::ComponentGone,
            Why::AnotherComponent,
            Why::Unreadable,
            Why::OtherVersion,
            Why::GivenUp,
            Why::Refused,
        ];
        for why in whys {
            ensure!(parked.contains_key(&why), "none was parked since {why}: {self:?}");
        }
        let others: BTreeMap<&str, usize> = BTreeMap::from([
            ("edits by others", *foreign),
            ("edits beside a batch", *beside),
            ("entries of timelines", *entries),
            ("intervals in which components were affected", *intervals),
            ("repeated keys", *keys),
            ("updates in envelopes of several", self.together),
            ("batches that ended inside an envelope", self.cut),
            ("settled updates that came again with their envelope", self.settled_again),
        ]);
        for (what, count) in others {
            ensure!(count > 0, "there were no {what}: {self:?}");
        }
        Ok(())
    }
}

/// Plays so many histories, drawn from a seed; the shortest one that fails is the error. To be called
/// where it may block, with the runtime that the connections live on. Returns what they had.
///
/// # Errors
/// When something is not as it must be, or when many histories did not have all that they can have.
pub fn play_many(
    database_uri: &str,
    seed: u64,
    histories: u32,
    runtime: &Handle,
) -> Result<Coverage> {
    let config = Config {
        cases: histories,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let coverage = RefCell::new(Coverage::default());
    let drawn = history::histories().prop_map(Box::new);
    let played = TestRunner::new(config).run(&drawn, |history| {
        let played = runtime.block_on(async {
            let played = record(database_uri, &history, None).await?;
            let compared = verdict::judge(&played.run).into_result()?;
            coverage.borrow_mut().add(&compared, &played);
            anyhow::Ok(())
        });
        played.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    played.map_err(|error| match error {
        TestError::Fail(reason, history) => anyhow!("seed {seed}: {reason}\nin {history:#?}"),
        TestError::Abort(reason) => anyhow!("seed {seed}: {reason}"),
    })?;
    let coverage = coverage.into_inner();
    if histories >= MANY {
        coverage.is_worth_something()?;
    }
    Ok(coverage)
}

/// So many histories, drawn from a seed.
///
/// # Errors
/// When none can be drawn.
pub fn drawn(seed: u64, histories: usize) -> Result<Vec<History>> {
    let config = Config {
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let draw = |_| {
        let tree = history::histories().new_tree(&mut runner);
        tree.map(|tree| tree.current()).map_err(|reason| anyhow!("{reason}"))
    };
    (0..histories).map(draw).collect()
}

/// A connection to the database of a simulation, with a name by which it is known there.
async fn connect(database_uri: &str, name: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = database_uri.parse()?;
    // As a worker's session: compiling the plan would take longer than a membership lasts.
    let options = options.application_name(name).options(shared::database::BY_INDEX);
    Ok(PgConnection::connect_with(&options).await?)
}
