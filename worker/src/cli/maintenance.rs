//! `worker maintenance`.

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand};
use shared::{
    domain::{incident::IncidentId, timestamp::Timestamp},
    settings::Settings,
};

use super::{
    connect,
    incident::{ChangeArguments, NewArguments},
    incident_table::everything,
    parsers::words,
    printed,
};
use crate::operator::{self, Closing, IncidentChange, IncidentKind, New};

/// `worker maintenance`.
#[derive(Args)]
pub struct MaintenanceArguments {
    #[command(subcommand)]
    command: MaintenanceCommand,
    /// Print JSON; its times are RFC 3339, UTC.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum MaintenanceCommand {
    /// Schedule a maintenance: while it runs, updates of its components change nothing.
    Schedule {
        #[command(flatten)]
        new: NewArguments,
        /// When it begins. UTC as `YYYY-MM-DD HH:MM`, or RFC 3339.
        #[arg(long, value_name = "TIME")]
        start: Timestamp,
        /// When it ends, after its start and in the future. UTC as `YYYY-MM-DD HH:MM`, or RFC 3339.
        #[arg(long, value_name = "TIME")]
        end: Timestamp,
        /// What is going to be done.
        #[arg(long, value_name = "TEXT", value_parser = words)]
        description: Option<String>,
    },
    /// Change a maintenance that has not ended; each change is recorded as an incident update.
    #[command(group(ArgGroup::new("change").required(true).multiple(true)))]
    Change {
        /// Its id.
        id: i32,
        #[command(flatten)]
        wanted: ChangeArguments,
        /// Its new start. UTC as `YYYY-MM-DD HH:MM`, or RFC 3339.
        #[arg(long, value_name = "TIME", group = "change")]
        start: Option<Timestamp>,
        /// Its new end, after its start and in the future. UTC as `YYYY-MM-DD HH:MM`, or RFC 3339.
        #[arg(long, value_name = "TIME", group = "change")]
        end: Option<Timestamp>,
    },
    /// End a maintenance that runs, now: an update `completed`, and its end.
    End {
        /// Its id.
        id: i32,
        /// What to say in the update; dashboards show it as HTML.
        #[arg(long, default_value = "Maintenance completed", value_parser = words)]
        text: String,
    },
}

/// Returns what to print.
pub(super) async fn run(arguments: MaintenanceArguments, settings: &Settings) -> Result<String> {
    let database = &mut connect(settings).await?;
    let maintenance = match arguments.command {
        MaintenanceCommand::Schedule { new, start, end, description } => {
            let NewArguments { title, components } = new;
            let new = New::Maintenance { start, end, description };
            operator::open(database, new, &title, &components).await?
        }
        MaintenanceCommand::Change { id, wanted, start, end } => {
            let ChangeArguments { title, add } = wanted;
            let wanted = IncidentChange { title, start, end, add, impact: None };
            operator::change(database, IncidentId(id), IncidentKind::Maintenance, wanted).await?
        }
        MaintenanceCommand::End { id, text } => {
            let closing = Closing { at: None, text };
            operator::close(database, IncidentId(id), IncidentKind::Maintenance, closing).await?
        }
    };
    printed(&maintenance, || everything(&maintenance), arguments.json)
}
