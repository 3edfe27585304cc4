//! A storm over the whole system: real gateways and workers on real servers, under load, while processes
//! and servers are killed, stalled and restarted, connections cut and partitions changed. At the end, the
//! clients' answers are compared with the database.

mod alert;
mod check;
mod diary;
mod earlier;
mod interruption;
mod load;
mod machines;
mod many;
mod member;
mod operator;
mod pipelines;
mod plan;
mod published;
mod random;
mod record;
mod report;
mod storm;
mod update;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use deploy::{
    binaries::{self, Binaries},
    servers::Servers,
};
use harness::{Fixture, SEVERAL_PARTITIONS, SharedCluster, System, burst::add_components, verdict};
use shared::domain::timestamp::Timestamp;
use tokio::time::Instant;

use crate::{
    alert::Clock, diary::Diary, load::Load, machines::Machines, member::Member, plan::Plan,
    published::Published, random::Random, record::Record, storm::Storm,
};

const GATEWAYS: usize = 2;
const WORKERS: usize = 3;

/// Breaks a whole system under load, at random, and checks that nothing is lost, doubled or taken out
/// of order. Ctrl-C ends the storm early and goes on to the check.
#[derive(Parser)]
struct Arguments {
    /// How long things are broken.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// What is broken when: the same seed draws the same plan.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients that post updates; 48, and on several machines 16.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    clients: Option<u16>,
    /// Has three nodes of RabbitMQ, and a primary of PostgreSQL with a synchronous standby. Nodes are lost,
    /// and the standby is promoted.
    #[arg(long, conflicts_with = "upgrade_from")]
    machines: bool,
    /// Break each kind of machine in little time, instead of going on.
    #[arg(long, requires = "machines", conflicts_with = "minutes")]
    smoke: bool,
    /// Instead of breaking things at random, upgrade from the programs of an earlier commit, go back, and
    /// upgrade again, one process after the other.
    #[arg(long, value_name = "COMMIT", num_args = 0..=1, default_missing_value = earlier::DEFAULT)]
    upgrade_from: Option<String>,
    /// Keep the folder with logs, answers and data, also when all is well.
    #[arg(long)]
    keep: bool,
}

impl Arguments {
    fn clients(&self) -> usize {
        self.clients.unwrap_or(if self.machines { 16 } else { 48 }).into()
    }

    fn plan(&self, random: Random) -> Plan {
        let members = GATEWAYS + WORKERS;
        match (self.machines, self.smoke) {
            (_, true) => Plan::smoke(random),
            (true, false) => Plan::Machines { random, members, next: Vec::new() },
            (false, false) => Plan::OneMachine { random, members },
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all was as promised.
fn run(arguments: &Arguments) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let folder = PathBuf::from(format!("/var/tmp/status-dashboard-chaos-{}", std::process::id()));
    let logs = folder.join("logs");
    let binaries = Arc::new(binaries::build()?);
    let earlier = arguments.upgrade_from.as_deref();
    let earlier = earlier.map(|commit| earlier::build(commit, &binaries)).transpose()?;
    fs::create_dir(&folder)?;
    fs::create_dir(&logs)?;
    let servers = Arc::new(Servers::start(&folder.join("servers"))?);
    let fixture = Arc::new(Fixture {
        servers,
        own_postgres: None,
        cluster: None,
        shared_cluster: SharedCluster::new(folder.join("cluster")),
        binaries,
        name: "chaos".to_owned(),
        folder: logs,
        has_journal: true,
    });
    let runtime = tokio::runtime::Runtime::new()?;
    let good = storm_and_check(arguments, seed, &folder, &fixture, earlier.as_ref());
    let good = runtime.block_on(good);
    // What still uses the servers ends before they do.
    drop(runtime);
    drop(fixture);
    let good = good.with_context(|| format!("seed {seed}, folder {}", folder.display()))?;
    if good && !arguments.keep {
        fs::remove_dir_all(&folder)?;
    } else {
        println!("Logs, answers and data are kept in {}", folder.display());
    }
    Ok(good)
}

async fn storm_and_check(
    arguments: &Arguments,
    seed: u64,
    folder: &Path,
    fixture: &Arc<Fixture>,
    earlier: Option<&Binaries>,
) -> Result<bool> {
    let (storm, clock) = prepare(arguments, seed, folder, fixture, earlier).await?;
    let mut clients = storm.load.start(seed, arguments.clients());
    clients.extend(storm.load.start_pipelines(seed, clock));
    let edits = Mutex::default();
    let operators = operator::connections(storm.database_uri())?;
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let write = |number| {
        operator::write_now_and_then(&operators, &storm.load, Random::new(seed, number), &edits)
    };
    let mut published = Published::default();
    let rage = async {
        match earlier {
            Some(earlier) => storm.upgrade_and_back(earlier).await,
            None => storm.rage(arguments.plan(Random::new(seed, 0)), time).await,
        }
    };
    let raged = tokio::select! {
        raged = rage => raged,
        watched = storm.watch() => watched,
        ((), (), ()) = async { tokio::join!(write(1), write(2), published.count(&storm.load)) } => Ok(()),
    };
    if let Err(error) = raged {
        storm.see_wrong(format!("{error:#}"));
    }
    storm.diary.note("the storm is over: the clients stop");
    storm.load.stopped.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.context("a client panicked")?;
    }
    if let Err(error) = drained(&storm.system).await {
        storm.see_wrong(format!("{error:#}"));
    }
    storm.diary.note("the queues are empty");
    operators.close().await;
    let edits = edits.into_inner().unwrap_or_else(PoisonError::into_inner);
    published.count_now(&storm.load).await;
    check::check(&storm, edits, &published, folder).await
}

/// A system whose processes are started, and the clients that are to use it; and the database's clock.
async fn prepare(
    arguments: &Arguments,
    seed: u64,
    folder: &Path,
    fixture: &Arc<Fixture>,
    earlier: Option<&Binaries>,
) -> Result<(Storm, Clock)> {
    let diary = Arc::new(Diary::begin(&folder.join("diary.log"))?);
    let programs = earlier.unwrap_or(&fixture.binaries);
    let (system, machines) = if arguments.machines {
        let (system, machines) = Machines::start(fixture).await?;
        (system, Some(Arc::new(machines)))
    } else {
        (System::prepared_by(fixture, &programs.worker, SEVERAL_PARTITIONS).await?, None)
    };
    add_components(&system).await?;
    verdict::begin(&mut *system.database.acquire().await?).await?;
    let roles = [("gateway", GATEWAYS), ("worker", WORKERS)];
    let mut members = Vec::new();
    for (role, number) in
        roles.iter().flat_map(|(role, count)| (1..=*count).map(move |n| (role, n)))
    {
        members.push(Arc::new(Member::new(&system, programs, role, number).await?));
    }
    for member in &members {
        member.start()?;
    }
    let began: Timestamp = sqlx::query_scalar("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
        .fetch_one(&system.database)
        .await?;
    let clock = Clock { began, read: Instant::now() };
    diary.note(format!(
        "{}, seed {seed}: {GATEWAYS} gateways, {WORKERS} workers, {} clients, folder {}",
        began.to_the_microsecond(),
        arguments.clients(),
        folder.display()
    ));
    let load = Arc::new(Load {
        client: system.client.clone(),
        token: system.token.clone(),
        addresses: members.iter().take(GATEWAYS).map(|member| member.address.clone()).collect(),
        record: Record::new(GATEWAYS),
        diary: diary.clone(),
        stopped: AtomicBool::new(false),
        has_earlier_gateways: earlier.is_some(),
    });
    let ended = Arc::new(AtomicBool::new(false));
    let asked = ended.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            asked.store(true, Ordering::Relaxed);
        }
    });
    let storm = Storm { system, members, load, diary, ended, tally: Mutex::default(), machines };
    Ok((storm, clock))
}

/// Twice the harness's limit.
async fn drained(system: &System) -> Result<()> {
    if system.drained().await.is_err() {
        system.drained().await?;
    }
    Ok(())
}
