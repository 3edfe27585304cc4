//! The worker's program.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use shared::{
    process::{output, stop_signal, supervise},
    settings::Settings,
    telemetry::{self, traces},
};
use worker::{
    cli::{self, Arguments, Command},
    config::Config,
    service,
};

// One thread: a batch is a chain of waits, and each would wake another thread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = Settings::from_environment();
    let done = match Arguments::parse().command {
        Command::Run => run(&settings).await,
        Command::Operator(command) => print(cli::run(command, &settings).await),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(format_args!("worker: {}", telemetry::chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result<()> {
    telemetry::init(settings)?;
    settings.unused().log();
    let config = Config::from_settings(settings)?;
    traces::start("status-dashboard-worker", config.broker.address(), config.database.address())?;
    let ran = service::run(config, settings, stop_signal::token()?).await;
    traces::flush().await;
    ran?;
    Ok(supervise::outcome()?)
}

fn print(result: Result<String>) -> Result<()> {
    Ok(output::line(result?)?)
}
