//! The worker's command line.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use shared::{database, settings::Settings, shutdown, telemetry};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use worker::{catalogue, config::Config, migrate, run};

/// Applies status updates: takes them from RabbitMQ, decides which incident each belongs to, and
/// writes PostgreSQL. Settings are environment variables; README.md lists them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Consume updates until SIGTERM or SIGINT; a second one ends at once.
    Run,
    /// Prepare the database, empty or the Python dashboard's; safe to run again.
    Migrate,
    /// Take our triggers, indexes and constraint off the Python dashboard's tables. `migrate` adds
    /// them again.
    Detach,
    /// The components that updates may name.
    #[command(subcommand)]
    Catalogue(Catalogue),
}

#[derive(Subcommand)]
enum Catalogue {
    /// Add the components of a catalogue file (YAML) and change those that it has otherwise; none
    /// is removed.
    Apply {
        /// The file.
        file: PathBuf,
    },
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match command(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker: {}", telemetry::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn command(command: Command) -> Result<()> {
    let settings = Settings::from_environment();
    match command {
        Command::Run => {
            telemetry::init(&settings)?;
            settings.not_ours().log();
            let config = Config::from_settings(&settings)?;
            run::run(config, &settings, shutdown::on_signal()?).await?;
        }
        Command::Migrate => {
            for line in migrate::migrate(&mut connect(&settings).await?, &settings).await? {
                println!("{line}");
            }
        }
        Command::Detach => {
            migrate::detach(&mut connect(&settings).await?).await?;
            println!(
                "The dashboard's tables are as they were; `worker migrate` adopts them again."
            );
        }
        Command::Catalogue(Catalogue::Apply { file }) => {
            let yaml = std::fs::read_to_string(&file)
                .with_context(|| format!("{} can't be read", file.display()))?;
            let wanted = catalogue::parse(&yaml).with_context(|| file.display().to_string())?;
            let plan = catalogue::apply(&mut connect(&settings).await?, wanted)
                .await
                .with_context(|| file.display().to_string())?;
            println!("{plan}");
        }
    }
    Ok(())
}

/// A connection for an operator's command, which may take its time.
async fn connect(settings: &Settings) -> Result<PgConnection> {
    let options: PgConnectOptions = database::connect_options(settings, "worker")?;
    let options = options.options([
        ("statement_timeout", "0"),
        ("lock_timeout", "60s"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    PgConnection::connect_with(&options).await.context("the database can't be reached")
}
