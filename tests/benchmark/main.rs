//! Measures the whole system: real gateways and workers on real servers, each figure with a baseline
//! that was measured beside it. CONTRIBUTING.md says how to run and read it.

mod backlog;
mod baselines;
mod bench;
mod endurance;
mod growth;
mod history;
mod lists;
mod load;
mod many;
mod publisher;
mod report;
mod runs;
mod sequence;
mod start;
mod updates;
mod usage;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use deploy::{
    binaries::{self, Binaries},
    servers::Servers,
};
use harness::{CLAIM, SECRET, token};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::bench::{Bench, Scale, say};

/// Measures the system and prints a table. Release builds only.
#[derive(Parser)]
struct Arguments {
    /// Seconds of a run.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Runs of each load; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// Measure these only.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// A backlog of 200,000 updates, 1,000,000 incidents of history and 10,000,000 updates, instead
    /// of 50,000, 20,000 and 200,000; and the ten minutes of `endurance`.
    #[arg(long, conflicts_with = "smoke")]
    full: bool,
    /// Run each part for a moment, to see that it works. Figures and targets mean nothing then.
    #[arg(long)]
    smoke: bool,
    /// Partitions of each system; if not given, the default number.
    #[arg(long)]
    partitions: Option<u16>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Measure the `gateway` and the `worker` in this folder instead of those of this checkout, for a
    /// comparison of two versions. Parts that publish by themselves need this version's topology.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Be the bare web server that lists are compared with, for this file.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Start to ready, memory at rest.
    Start,
    /// POST with the outcome.
    Post,
    /// POST of many updates at once, with their outcomes.
    Many,
    /// POST without waiting for it.
    Async,
    /// POST with the outcome, one at a time.
    Alone,
    /// A backlog.
    Drain,
    /// A backlog, while commits take as long as on a slow disk.
    SlowDisk,
    /// A backlog among 10,000 components, as many incidents that stand, and many closed ones.
    Broad,
    /// A backlog, with and without the record of when components were affected.
    Affected,
    /// A backlog among many reports, and the end of a storm.
    Reports,
    /// POST at a steady rate.
    Steady,
    /// GET of 50 incidents, also conditional.
    Get,
    /// GET of 1,000 incidents.
    Lists,
    /// GET of 50 events, and of the availability, of API v2.
    V2,
    /// GET of the page for people.
    Page,
    /// GET and POST at once.
    Mixed,
    /// A long history.
    Growth,
    /// Ten minutes at half load; with `--full`, or by its name, only.
    Endurance,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(file) = &arguments.serve {
        return runtime.block_on(baselines::serve(file));
    }
    if cfg!(debug_assertions) && !arguments.smoke {
        say("this is not a release build: its figures mean nothing");
    }
    let begin = Instant::now();
    let own = binaries::build()?;
    let programs = match &arguments.programs {
        Some(folder) => Binaries::of_folder(folder)?,
        None => own.clone(),
    };
    let folder =
        PathBuf::from(format!("/var/tmp/status-dashboard-benchmark-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let servers = Servers::start(&folder.join("servers"))?;
    let token = token(SECRET, &json!({ CLAIM: "benchmark" }));
    let mut bench = Bench::new(
        scale(arguments),
        &folder,
        token,
        servers,
        [programs, own],
        arguments.partitions,
    );
    let circumstances = runtime.block_on(circumstances(&bench, arguments.programs.as_deref()))?;
    let measured = runtime.block_on(measure(&mut bench, arguments));
    // Whatever was measured before an error is shown.
    if arguments.json {
        println!("{:#}", bench.report.json(&circumstances));
    } else {
        println!("{}", bench.report.markdown(&circumstances));
    }
    say(&format!("took {} s", begin.elapsed().as_secs()));
    let missed: Vec<String> = bench.report.missed().into_iter().map(str::to_owned).collect();
    let failed = bench.report.failed();
    // What still uses the servers ends before they do.
    drop(runtime);
    drop(bench);
    measured.with_context(|| format!("logs are in {}", folder.display()))?;
    fs::remove_dir_all(&folder)?;
    if failed > 0 {
        bail!("{failed} requests failed");
    }
    if !missed.is_empty() && !arguments.smoke {
        bail!("{} targets are missed: {}", missed.len(), missed.join("; "));
    }
    Ok(())
}

fn scale(arguments: &Arguments) -> Scale {
    let small = Scale {
        time: Duration::from_secs(arguments.seconds),
        runs: arguments.runs.into(),
        backlog: 50_000,
        queue_limit: None,
        incidents: 20_000,
        inbox: 200_000,
        minute: Duration::from_secs(60),
        minutes: 10,
    };
    if arguments.full {
        // All of a backlog may be for one queue.
        let (backlog, queue_limit) = (200_000, Some(200_000));
        Scale { backlog, queue_limit, incidents: 1_000_000, inbox: 10_000_000, ..small }
    } else if arguments.smoke {
        let (time, minute) = (Duration::from_millis(300), Duration::from_secs(1));
        let (backlog, incidents, inbox) = (2_000, 1_000, 2_000);
        Scale { time, runs: 1, backlog, incidents, inbox, minute, minutes: 2, ..small }
    } else {
        small
    }
}

async fn measure(bench: &mut Bench, arguments: &Arguments) -> Result<()> {
    for part in Part::value_variants() {
        let by_name = arguments.only.contains(part);
        let takes_long = *part == Part::Endurance && !(arguments.full || arguments.smoke);
        if !by_name && (takes_long || !arguments.only.is_empty()) {
            continue;
        }
        match part {
            Part::Start => start::start(bench).await,
            Part::Post => updates::post(bench).await,
            Part::Many => many::post(bench).await,
            Part::Async => updates::respond_async(bench).await,
            Part::Alone => updates::alone(bench).await,
            Part::Drain => backlog::drain(bench).await,
            Part::SlowDisk => backlog::slow_disk(bench).await,
            Part::Broad => backlog::broad(bench).await,
            Part::Affected => backlog::affected(bench).await,
            Part::Reports => backlog::reports(bench).await,
            Part::Steady => updates::steady(bench).await,
            Part::Get => lists::small(bench).await,
            Part::Lists => lists::large(bench).await,
            Part::V2 => lists::v2(bench).await,
            Part::Page => lists::page(bench).await,
            Part::Mixed => updates::mixed(bench).await,
            Part::Growth => growth::grown(bench).await,
            Part::Endurance => endurance::endure(bench).await,
        }
        .with_context(|| format!("{part:?}"))?;
    }
    Ok(())
}

/// What it was measured on: without it a figure says nothing.
async fn circumstances(
    bench: &Bench,
    programs: Option<&Path>,
) -> Result<Vec<(&'static str, String)>> {
    let mut database = PgConnection::connect(&bench.servers.postgres().uri()).await?;
    let (date, postgres, settings): (String, String, String) = sqlx::query_as(
        "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC',
            current_setting('server_version'),
            (SELECT string_agg(name || ' ' || setting, ', ' ORDER BY name) FROM pg_settings
                WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes',
                    'shared_buffers', 'max_wal_size'))",
    )
    .fetch_one(&mut database)
    .await?;
    let rabbitmq = bench.servers.rabbitmq().ctl(&["version"])?;
    let profile = if cfg!(debug_assertions) { "not optimized" } else { "release" };
    let seconds = bench.scale.time.as_secs_f64();
    Ok(vec![
        ("Commit", format!("{}, {profile}", commit())),
        (
            "Programs",
            match programs {
                Some(folder) => folder.display().to_string(),
                None => "of this commit".to_owned(),
            },
        ),
        ("Date", date),
        ("Machine", machine()),
        ("Servers", format!("PostgreSQL {postgres} ({settings}), RabbitMQ {}", rabbitmq.trim())),
        (
            "Runs",
            format!(
                "{} of {seconds} s each; a rate is their median, a latency that of all their \
                 requests, and the least and the highest of single runs stand in brackets",
                bench.scale.runs
            ),
        ),
    ])
}

/// The commit that was measured.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(deploy::checkout()).output();
        let output = output.ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain"]) {
        Some(changes) if changes.is_empty() => commit,
        Some(_) | None => format!("{commit} with changes"),
    }
}

/// The machine.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let model = value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown CPU".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{model}, {cores} cores, {:.0} GiB of memory, Linux {}; clients, servers and programs share it",
        kib / f64::from(1 << 20),
        kernel.trim()
    )
}
