//! A storm over the whole system: real gateways and workers on real servers, under load, while processes
//! and servers are killed, stalled and restarted, connections cut and partitions changed. At the end, the
//! clients' answers are compared with the database.

mod diary;
mod earlier;
mod load;
mod many;
mod member;
mod operator;
mod plan;
mod published;
mod random;
mod record;
mod report;
mod storm;

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

use anyhow::{Context, Result, ensure};
use clap::Parser;
use deploy::{
    binaries::{self, Binaries},
    servers::Servers,
};
use harness::{
    Fixture, SEVERAL_PARTITIONS, SharedCluster, System,
    burst::add_components,
    replay,
    verdict::{self, Expected},
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    diary::Diary,
    load::Load,
    member::Member,
    operator::Edits,
    published::Published,
    random::Random,
    record::{Attempt, AttemptResult, Record},
    report::Report,
    storm::{Storm, Tally},
};

const GATEWAYS: usize = 2;
const WORKERS: usize = 3;
/// Receipts that are compared with the answers.
const RECEIPTS: usize = 300;

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
    /// Clients that post updates.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(1..=100))]
    clients: u16,
    /// Instead of breaking things at random, upgrade from the programs of an earlier commit, go back, and
    /// upgrade again, one process after the other.
    #[arg(long, value_name = "COMMIT", num_args = 0..=1, default_missing_value = earlier::DEFAULT)]
    upgrade_from: Option<String>,
    /// Keep the folder with logs, answers and data, also when all is well.
    #[arg(long)]
    keep: bool,
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
    let diary = Arc::new(Diary::begin(&folder.join("diary.log"))?);
    let first = earlier.unwrap_or(&fixture.binaries);
    let system = System::prepared_by(fixture, &first.worker, SEVERAL_PARTITIONS).await?;
    add_components(&system).await?;
    verdict::begin(&mut *system.database.acquire().await?).await?;
    let mut members = Vec::new();
    for number in 0..GATEWAYS {
        members.push(Arc::new(Member::new(&system, first, "gateway", number + 1).await?));
    }
    for number in 0..WORKERS {
        members.push(Arc::new(Member::new(&system, first, "worker", number + 1).await?));
    }
    for member in &members {
        member.start()?;
    }
    let now: String = sqlx::query_scalar("SELECT (now() AT TIME ZONE 'UTC')::text")
        .fetch_one(&system.database)
        .await?;
    diary.note(format!(
        "{now} UTC, seed {seed}: {GATEWAYS} gateways, {WORKERS} workers, {} clients, folder {}",
        arguments.clients,
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

    let edits = Mutex::default();
    let operators = operator::connections(&system.database_uri)?;
    let storm = Storm { system, members, load, diary, ended, tally: Mutex::default() };
    let clients = storm.load.start(seed, usize::from(arguments.clients));
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let write = |number| {
        operator::write_now_and_then(&operators, &storm.load, Random::new(seed, number), &edits)
    };
    let mut published = Published::default();
    let rage = async {
        match earlier {
            Some(earlier) => storm.upgrade_and_back(earlier).await,
            None => storm.rage(Random::new(seed, 0), time).await,
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
    check(&storm, edits, &published, folder).await
}

/// Twice the harness's limit.
async fn drained(system: &System) -> Result<()> {
    if system.drained().await.is_err() {
        system.drained().await?;
    }
    Ok(())
}

/// Compares all there is, prints the table, and returns whether all was as promised.
async fn check(storm: &Storm, edits: Edits, published: &Published, folder: &Path) -> Result<bool> {
    let database = &storm.system.database;
    let (attempts, mut wrong, reads) = storm.load.record.all();
    record::write(&attempts, &storm.diary, &folder.join("answers.jsonl"))?;
    let mut run = verdict::read(&mut *database.acquire().await?).await?;
    record::write_inbox(&run.inbox, &folder.join("inbox.jsonl"))?;
    run.attempts = record::as_sent(&attempts)?;
    run.confirmed = edits.confirmed.clone();
    run.expected = Expected {
        compares: true,
        broke: Some(storm.tally().faults()),
        operators: vec![operator::NAME.to_owned()],
        unknown_may_be_given_up: false,
    };
    let verdict = verdict::judge(&run);
    wrong.extend(many::out_of_order(&attempts, &run.inbox));
    // Nothing that is sent here has a reason to be parked.
    wrong.extend(run.parked.iter().map(|row| format!("parked: {row:?}")));
    if verdict.compared.changes == 0 || edits.confirmed.is_empty() || edits.held == 0 {
        wrong.push(format!("the run says little: {:?}, {edits:?}", verdict.compared));
    }
    if let Err(error) = replay::holds_one_active_incident(database).await {
        wrong.push(format!("{error:#}"));
    }
    if let Err(error) = receipts(&storm.load, &attempts).await {
        wrong.push(format!("receipts: {error:#}"));
    }
    for member in &storm.members {
        // Its memory is looked at a last time.
        wrong.extend(member.look());
        member.kill()?;
    }
    wrong.extend(panics(&folder.join("logs"))?);
    let tally: Tally = storm.tally().clone();
    wrong.extend(tally.wrong.iter().cloned());
    let report = Report {
        attempts: &attempts,
        reads,
        tally: &tally,
        verdict: &verdict,
        rows: run.inbox.len(),
        edits: &edits,
        published,
        members: &storm.members,
        wrong: &wrong,
    };
    let (table, findings) = (report.table(), report.findings());
    println!("\n{table}\n{findings}");
    fs::write(folder.join("report.md"), format!("{table}\n{findings}"))?;
    Ok(report.is_good())
}

/// The receipts of some updates say what their answers said.
async fn receipts(load: &Load, attempts: &[Attempt]) -> Result<()> {
    let answered: Vec<(bool, Uuid, i64)> = attempts
        .iter()
        .filter_map(|attempt| match attempt.result {
            AttemptResult::Outcome { changed, id, incident } => Some((changed, id, incident)),
            AttemptResult::Accepted(_)
            | AttemptResult::Refused(..)
            | AttemptResult::Unknown(..)
            | AttemptResult::Nothing(_)
            | AttemptResult::Wrong(_) => None,
        })
        .collect();
    let address = load.addresses.first().context("there is no gateway")?;
    for (changed, id, incident) in answered.iter().step_by((answered.len() / RECEIPTS).max(1)) {
        let url = format!("http://{address}/api/v1/updates/{id}");
        let request = load.client.get(url).bearer_auth(&load.token);
        let receipt = timeout(Duration::from_secs(5), harness::answer(request)).await??;
        let is_right = receipt.status == 200 && load::agrees(&receipt, *changed, *incident);
        ensure!(is_right, "{id}, {changed}, {incident}: {receipt:?}");
    }
    Ok(())
}

/// What the logs say of panics.
fn panics(logs: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let panics = log.lines().filter(|line| line.contains("panicked"));
        found.extend(panics.map(|line| format!("{}: {line}", path.display())));
    }
    Ok(found)
}
