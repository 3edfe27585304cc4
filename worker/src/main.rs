//! The worker's command line.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, value_parser};
use serde::Serialize;
use shared::{
    broker::Broker,
    database::{self, SessionError},
    health, message, output,
    settings::Settings,
    shutdown, supervise, telemetry,
    topology::Recorded,
    traces,
};
use sqlx::PgConnection;
use worker::{
    broker::{
        policies,
        repartition::{self, TopologyChange},
        requeue::{self, Which},
    },
    catalogue::{self, Catalogue, How},
    config::Config,
    migrate,
    operator::{self, IncidentArguments, MaintenanceArguments},
    service,
};

/// Applies status updates: takes them from RabbitMQ, decides which incident each belongs to, and
/// writes PostgreSQL. Settings are environment variables; docs/reference.md lists them.
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
    /// Ask the worker of this machine, at SDB_ADMIN_ADDRESS, whether it lives; exit with 1 when it
    /// does not.
    Health {
        /// Whether it takes part in the work or stands by instead.
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
    /// What is active: look at it, comment it, change it, close it. Each change is written into the
    /// updates of the incident.
    Incident(IncidentArguments),
    /// Maintenances: schedule one, change it, end it. `worker incident` lists, shows and comments
    /// them.
    Maintenance(MaintenanceArguments),
    /// The updates that could not be applied.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// The shape of the queues, and the workers that live.
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// How RabbitMQ is set up.
    #[command(subcommand)]
    Broker(BrokerCommand),
}

#[derive(Subcommand)]
enum BrokerCommand {
    /// Find policies that can lose updates, in what `rabbitmqctl -q -p VHOST list_policies --formatter
    /// json` prints, and after it the same with `list_operator_policies`, piped in; exit with 1 when
    /// there are any.
    CheckPolicies,
}

#[derive(Subcommand)]
enum ParkedCommand {
    /// List them, oldest first: number, time, component, reason.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show all there is about some of them.
    Show {
        /// Their numbers.
        #[arg(required = true)]
        ids: Vec<i64>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Requeue some, when the cause is fixed. They take their place at the
    /// end of their queue; what can't be applied again is parked again.
    #[command(arg_required_else_help = true)]
    PutBack {
        /// Their numbers.
        #[arg(conflicts_with = "all", required_unless_present = "all")]
        ids: Vec<i64>,
        /// All of them, in the order in which they were parked.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Subcommand)]
enum TopologyCommand {
    /// Show them.
    Show {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change the shape while all runs. POST answers 503 for up to 10 s: the old queues are emptied
    /// before the new ones are used, so that no update overtakes another.
    #[command(arg_required_else_help = true)]
    Change {
        /// Queues that the components are spread over.
        #[arg(long, value_parser = value_parser!(u16).range(1..=1024))]
        partitions: Option<u16>,
        /// Updates that one queue holds.
        #[arg(long, value_parser = value_parser!(u32).range(1..=100_000_000))]
        queue_limit: Option<u32>,
        /// Updates of one queue that a worker holds.
        #[arg(long, value_parser = value_parser!(u16).range(1..=10_000))]
        prefetch: Option<u16>,
        /// Newest version of messages that gateways write: 1 before a downgrade, to be read by workers of
        /// the earlier release; 2 for several updates in one message
        #[arg(long, value_parser = value_parser!(u16).range(1..=i64::from(message::NEWEST)))]
        wire: Option<u16>,
    },
}

#[derive(Subcommand)]
enum CatalogueCommand {
    /// Add the components of a catalogue file (YAML) that are not there, all in one transaction; those
    /// that the file does not have stay as they are, unless `--prune` is given.
    ///
    /// All attributes but `category` tell components of one name apart: an entry with another region or
    /// type is another component. If only the category differs, and no other component or entry of this
    /// name is like it but for the category, it is changed in place.
    ///
    /// To rename a component, or to change its other attributes, give its entry `renamed-from`: the name
    /// before, or `name` and `attributes` before, of which what is left out was as it is now. The
    /// attributes name it as those of an update do. It keeps its id and its history; while an incident
    /// or a maintenance that is active has it, nothing is applied. Once it is done, the line changes
    /// nothing. For example:
    ///
    ///   - name: Virtual Private Network
    ///     attributes: {category: Network, region: EU-NL, type: vpn}
    ///     renamed-from: VPN
    #[command(verbatim_doc_comment)]
    Apply {
        /// The file: `components`, a list of `name`, `attributes` and `renamed-from`.
        file: PathBuf,
        /// Print what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Remove the components that the file does not have. If incidents have one of them, closed
        /// ones included, it is named and nothing is applied. Updates of it that still wait are
        /// parked.
        #[arg(long)]
        prune: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

// One thread: a batch is a chain of waits, and each would wake another thread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match command(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(format_args!("worker: {}", telemetry::chain(error.as_ref())));
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
            traces::start("status-dashboard-worker", &settings)?;
            let ran = service::run(config, &settings, shutdown::on_signal()?).await;
            traces::flush().await;
            ran?;
            supervise::outcome()?;
        }
        Command::Health { ready } => {
            let address = shared::admin::address(&settings)?;
            let address = address.context("SDB_ADMIN_ADDRESS is not set: nobody can be asked")?;
            let path = if ready { "/readyz" } else { "/healthz" };
            output::line(health::ask(address, path).await?)?;
        }
        Command::Migrate => {
            for line in migrate::migrate(&mut connect(&settings).await?, &settings).await? {
                output::line(line)?;
            }
        }
        Command::Detach => {
            migrate::detach(&mut connect(&settings).await?).await?;
            output::line(
                "The dashboard's tables are as they were; `worker migrate` adopts them again.",
            )?;
        }
        Command::Catalogue(CatalogueCommand::Apply { file, dry_run, prune, json }) => {
            let yaml = std::fs::read_to_string(&file)
                .with_context(|| format!("{} can't be read", file.display()))?;
            let named = || file.display().to_string();
            let Catalogue { entries, passed_over } = catalogue::parse(&yaml).with_context(named)?;
            for line in passed_over {
                output::error(format_args!("worker: {}: {line}", file.display()));
            }
            let how = How { dry_run, prune };
            let plan = catalogue::apply(&mut connect(&settings).await?, entries, how)
                .await
                .with_context(named)?;
            let end = if dry_run { "\nA dry run: nothing was changed." } else { "" };
            print(&plan, format!("{plan}{end}"), json)?;
        }
        Command::Incident(arguments) => {
            output::line(operator::incident(arguments, &mut connect(&settings).await?).await?)?;
        }
        Command::Maintenance(arguments) => {
            output::line(operator::maintenance(arguments, &mut connect(&settings).await?).await?)?;
        }
        Command::Parked(command) => parked(command, &settings).await?,
        Command::Topology(TopologyCommand::Show { json }) => {
            let shape = repartition::show(&mut connect(&settings).await?).await?;
            print(&shape, shape.to_string(), json)?;
        }
        Command::Topology(TopologyCommand::Change { partitions, queue_limit, prefetch, wire }) => {
            let wanted = TopologyChange { partitions, queue_limit, prefetch, wire };
            let broker = Broker::from_settings(&settings)?;
            let stop = shutdown::on_signal()?;
            let database = &mut connect(&settings).await?;
            output::line(repartition::change(database, &broker, wanted, &stop).await?)?;
        }
        Command::Broker(BrokerCommand::CheckPolicies) => {
            let printed = std::io::read_to_string(std::io::stdin())?;
            let recorded = Recorded::read(&mut connect(&settings).await?).await?;
            let dangers = policies::check(&printed, recorded.topology)?;
            for danger in &dangers {
                output::line(danger)?;
            }
            if !dangers.is_empty() {
                bail!(
                    "these policies can lose updates: change them, or set one of higher priority"
                );
            }
            output::line("No policy can lose updates.")?;
        }
    }
    Ok(())
}

async fn parked(command: ParkedCommand, settings: &Settings) -> Result<()> {
    let database = &mut connect(settings).await?;
    match command {
        ParkedCommand::List { json } => {
            let all = requeue::list(database, &Which::All).await?;
            let lines = if all.is_empty() {
                "Nothing is parked.".to_owned()
            } else {
                all.iter().map(|parked| parked.line()).collect::<Vec<_>>().join("\n")
            };
            print(&all, lines, json)
        }
        ParkedCommand::Show { ids, json } => {
            let these = requeue::list(database, &Which::These(ids)).await?;
            let texts: Vec<String> = these.iter().map(ToString::to_string).collect();
            print(&these, texts.join("\n\n"), json)
        }
        ParkedCommand::PutBack { ids, all } => {
            let which = if all { Which::All } else { Which::These(ids) };
            let broker = Broker::from_settings(settings)?;
            let count = requeue::put_back(database, &broker, &which).await?;
            let again = "`worker parked list` shows what is parked again.";
            Ok(output::line(format_args!("Put back: {count}. {again}"))?)
        }
    }
}

fn print(value: &impl Serialize, text: String, json: bool) -> Result<()> {
    Ok(output::line(operator::printed(value, text, json)?)?)
}

/// A connection for an operator's command, which may take its time.
async fn connect(settings: &Settings) -> Result<PgConnection> {
    let options = database::connect_options(settings, "worker")?.with([
        ("statement_timeout", "0"),
        ("lock_timeout", "1min"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    options.connect_directly().await.map_err(|error| match SessionError::of(&error) {
        Some(refusal) => refusal.clone().into(),
        None => anyhow::Error::new(error).context("the database can't be reached"),
    })
}
