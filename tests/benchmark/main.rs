//! Measures the whole system: real gateways and workers on real servers, each figure with a yardstick
//! that was measured beside it. CONTRIBUTING.md says how to run and read it.

mod bench;
mod growth;
mod history;
mod lists;
mod load;
mod publisher;
mod report;
mod start;
mod tools;
mod updates;
mod usage;
mod yardsticks;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use deploy::{binaries, servers::Servers};
use harness::{CLAIM, SECRET, token};
use serde_json::json;

use crate::{
    bench::{Bench, Scale, say},
    load::Generator,
};

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
    /// of 50,000, 20,000 and 200,000.
    #[arg(long)]
    full: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
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
    /// POST without waiting for it.
    Async,
    /// A backlog.
    Drain,
    /// The same among 10,000 components, as many incidents that stand, and many closed ones.
    Broad,
    /// POST at a steady rate.
    Steady,
    /// GET of 50 incidents, also conditional.
    Get,
    /// GET of 1,000 incidents.
    Lists,
    /// GET and POST at once.
    Mixed,
    /// A long history.
    Growth,
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
        return runtime.block_on(yardsticks::serve(file));
    }
    if cfg!(debug_assertions) {
        say("this is not a release build: its figures mean nothing");
    }
    let begin = Instant::now();
    let oha = tools::oha()?;
    let binaries = binaries::build()?;
    let folder =
        PathBuf::from(format!("/var/tmp/status-dashboard-benchmark-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let servers = Servers::start(&folder.join("servers"))?;
    let token = token(SECRET, &json!({ CLAIM: "benchmark" }));
    let generator = Generator::prepare(oha, &folder, token)?;
    let mut bench = Bench::new(scale(arguments), &folder, generator, servers, binaries);
    let measured = runtime.block_on(measure(&mut bench, &arguments.only));
    // Whatever was measured before an error is shown.
    let machine = machine();
    if arguments.json {
        println!("{:#}", bench.report.json(&machine));
    } else {
        println!("{}", bench.report.markdown(&machine));
    }
    say(&format!("took {} s", begin.elapsed().as_secs()));
    // What still uses the servers ends before they do.
    drop(runtime);
    drop(bench);
    measured.with_context(|| format!("logs are in {}", folder.display()))?;
    Ok(fs::remove_dir_all(&folder)?)
}

fn scale(arguments: &Arguments) -> Scale {
    let small = Scale {
        time: Duration::from_secs(arguments.seconds),
        runs: arguments.runs.into(),
        backlog: 50_000,
        incidents: 20_000,
        inbox: 200_000,
    };
    if arguments.full {
        Scale { backlog: 200_000, incidents: 1_000_000, inbox: 10_000_000, ..small }
    } else {
        small
    }
}

async fn measure(bench: &mut Bench, only: &[Part]) -> Result<()> {
    for part in Part::value_variants() {
        if !only.is_empty() && !only.contains(part) {
            continue;
        }
        match part {
            Part::Start => start::start(bench).await,
            Part::Post => updates::post(bench).await,
            Part::Async => updates::respond_async(bench).await,
            Part::Drain => updates::drain(bench).await,
            Part::Broad => updates::broad(bench).await,
            Part::Steady => updates::steady(bench).await,
            Part::Get => lists::small(bench).await,
            Part::Lists => lists::large(bench).await,
            Part::Mixed => updates::mixed(bench).await,
            Part::Growth => growth::grown(bench).await,
        }
        .with_context(|| format!("{part:?}"))?;
    }
    Ok(())
}

/// What it was measured on.
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
        "Machine: {model}, {cores} cores, {:.0} GiB of memory, Linux {}; clients, servers and \
         programs share it.",
        kib / f64::from(1 << 20),
        kernel.trim()
    )
}
