//! The command line: arguments, texts and tables. The JSON of a command is what its result serializes to.

mod catalogue;
mod incident;
mod incident_table;
mod maintenance;
mod parked;
mod parsers;
mod report;
mod topology;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;
use shared::{
    database::{self, ConnectError},
    http::{admin, health},
    settings::Settings,
};
use sqlx::PgConnection;

use self::{
    catalogue::CatalogueCommand,
    incident::IncidentArguments,
    maintenance::MaintenanceArguments,
    parked::ParkedCommand,
    report::ReportArguments,
    topology::{BrokerCommand, TopologyCommand},
};
use crate::schema;

/// Applies status updates: takes them from RabbitMQ, decides which incident each belongs to, and
/// writes PostgreSQL. Settings are environment variables; docs/reference.md lists them.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A command of the worker.
#[derive(Subcommand)]
pub enum Command {
    /// Consume updates until SIGTERM or SIGINT; a second one ends at once.
    Run,
    /// One that an operator runs.
    #[command(flatten)]
    Operator(OperatorCommand),
}

/// A command that an operator runs, and that ends by itself.
#[derive(Subcommand)]
pub enum OperatorCommand {
    /// Check local liveness, at SDB_ADMIN_ADDRESS; exits 0 or 1.
    Health {
        /// Check readiness instead: whether it consumes partitions or stands by.
        #[arg(long)]
        ready: bool,
    },
    /// Prepare the database, empty or the Python dashboard's; safe to run again.
    Migrate,
    /// Take our triggers, indexes and constraint off the Python dashboard's tables. `migrate` adds
    /// them again.
    Detach,
    /// The components that updates may name.
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// What is active: show it, comment it, change it, close it. Each change is recorded as an update
    /// of the incident.
    Incident(IncidentArguments),
    /// Maintenances: schedule one, change it, end it. `worker incident` lists, shows and comments
    /// them.
    Maintenance(MaintenanceArguments),
    /// The updates that could not be applied.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// What sources say of components, until they take it back.
    Report(ReportArguments),
    /// The queues, and the live workers.
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// How RabbitMQ is set up.
    #[command(subcommand)]
    Broker(BrokerCommand),
}

/// Runs an operator's command; returns what to print.
///
/// # Errors
/// When it can't be done, with what an operator can do about it.
pub async fn run(command: OperatorCommand, settings: &Settings) -> Result<String> {
    match command {
        OperatorCommand::Health { ready } => {
            let address = admin::address(settings)?;
            let address =
                address.context("SDB_ADMIN_ADDRESS is not set: there is no address to check")?;
            let path = if ready { "/readyz" } else { "/healthz" };
            Ok(health::ask(address, path).await?)
        }
        OperatorCommand::Migrate => {
            let lines = schema::migrate(&mut connect(settings).await?, settings).await?;
            Ok(lines.join("\n"))
        }
        OperatorCommand::Detach => {
            schema::detach(&mut connect(settings).await?).await?;
            Ok("The dashboard's tables are as they were; `worker migrate` adopts them again."
                .to_owned())
        }
        OperatorCommand::Catalogue(command) => catalogue::run(command, settings).await,
        OperatorCommand::Incident(arguments) => incident::run(arguments, settings).await,
        OperatorCommand::Maintenance(arguments) => maintenance::run(arguments, settings).await,
        OperatorCommand::Parked(command) => parked::run(command, settings).await,
        OperatorCommand::Report(arguments) => report::run(arguments, settings).await,
        OperatorCommand::Topology(command) => topology::run(command, settings).await,
        OperatorCommand::Broker(command) => topology::check(command, settings).await,
    }
}

/// What a command prints about its result: a text, or JSON where that is asked for.
fn printed(result: &impl Serialize, text: impl FnOnce() -> String, json: bool) -> Result<String> {
    Ok(if json { serde_json::to_string_pretty(result)? } else { text() })
}

/// A connection for an operator's command, without the time limits of the service.
async fn connect(settings: &Settings) -> Result<PgConnection> {
    let options = database::connect_options(settings, "worker")?.with([
        ("statement_timeout", "0"),
        ("lock_timeout", "1min"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    Ok(options.connect_directly().await.map_err(ConnectError::from)?)
}
