//! Simulates for as long as one likes: see [`harness::simulation`].

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use deploy::servers::PostgresAlone;
use harness::simulation::{play_many, prepare};

/// Plays histories of updates, deaths, stalls and edits by others, drawn at random, on a real
/// PostgreSQL, and compares it with a naive model. The shortest history that fails is printed.
#[derive(Parser)]
struct Arguments {
    /// Histories to play: some five in a second.
    #[arg(long, default_value_t = 2_000)]
    histories: u32,
    /// What they are drawn from: the same seed draws the same.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let folder =
        PathBuf::from(format!("/var/tmp/status-dashboard-simulation-{}", std::process::id()));
    let postgres = PostgresAlone::start(&folder)?;
    let uri = postgres.postgres().create_database("simulation")?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(prepare(&uri))?;
    println!("{} histories from seed {seed}", arguments.histories);
    let played = play_many(&uri, seed, arguments.histories, runtime.handle());
    drop(postgres);
    fs::remove_dir_all(&folder)?;
    println!("All agree with the model: {:#?}", played?);
    Ok(())
}
