//! `worker incident`.

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand};
use shared::{
    domain::{impact::Impact, incident::IncidentId, timestamp::Timestamp},
    settings::Settings,
};

use super::{
    connect,
    incident_table::{everything, table},
    parsers::{impact, title, words},
    printed,
};
use crate::operator::{self, Closing, ComponentName, IncidentChange, IncidentKind, New};

/// `worker incident`.
#[derive(Args)]
pub struct IncidentArguments {
    #[command(subcommand)]
    command: IncidentCommand,
    /// Print JSON; its times are RFC 3339, UTC.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum IncidentCommand {
    /// List what is active, and the maintenances that are scheduled; newest start first.
    List,
    /// Show everything about an incident or a maintenance, also a closed one.
    Show {
        /// Its id.
        id: i32,
    },
    /// Open a manual incident. Updates never change it; those of its components up to its
    /// impact change nothing. Its components leave the other active incidents; one that would have
    /// none left is closed and keeps its last one.
    Open {
        #[command(flatten)]
        new: NewArguments,
        /// 1 (minor), 2 (major) or 3 (outage).
        #[arg(long, value_parser = impact)]
        impact: Impact,
        /// When it began, not in the future; now, unless it is given. UTC as `YYYY-MM-DD HH:MM`, or
        /// RFC 3339.
        #[arg(long, value_name = "TIME")]
        start: Option<Timestamp>,
    },
    /// Comment an incident or a maintenance. A system incident becomes a manual one by it: status
    /// updates do not change it from then on.
    Comment {
        /// Its id.
        id: i32,
        /// Of an incident: analyzing, fixing, observing. Of a maintenance: scheduled, "in progress".
        #[arg(long, value_name = "WORD")]
        status: String,
        /// What to say; dashboards show it as HTML.
        #[arg(value_parser = words)]
        text: String,
    },
    /// Change an incident; each change is recorded as an incident update. A system incident becomes a
    /// manual one by it: status updates do not change it from then on.
    #[command(group(ArgGroup::new("change").required(true).multiple(true)))]
    Change {
        /// Its id.
        id: i32,
        #[command(flatten)]
        wanted: ChangeArguments,
        /// Its new impact, higher or lower: 1 (minor), 2 (major) or 3 (outage).
        #[arg(long, value_parser = impact, group = "change")]
        impact: Option<Impact>,
    },
    /// Close an incident: an update `resolved`, and its end.
    Close {
        /// Its id.
        id: i32,
        /// When it ended, between its start and now; now, unless it is given. UTC as
        /// `YYYY-MM-DD HH:MM`, or RFC 3339.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// What to say in the update; dashboards show it as HTML.
        #[arg(long, default_value = "Incident resolved", value_parser = words)]
        text: String,
    },
    /// Take a component out of an incident or a maintenance. A system incident stays one: the
    /// component's next update may bring it back.
    RemoveComponent {
        /// Its id.
        id: i32,
        /// The component: its id, its name, or "Name (region=R1, type=dns)".
        component: ComponentName,
    },
}

/// What is given of a new incident or maintenance.
#[derive(Args)]
pub(super) struct NewArguments {
    /// Its title, at most 255 characters.
    #[arg(long, value_parser = title)]
    pub(super) title: String,
    /// A component that it affects: its id, its name, or "Name (region=R1, type=dns)". Repeat it for
    /// several.
    #[arg(long = "component", value_name = "COMPONENT", required = true)]
    pub(super) components: Vec<ComponentName>,
}

/// What can be changed of an incident and of a maintenance.
#[derive(Args)]
#[group(skip)]
pub(super) struct ChangeArguments {
    /// Its new title, at most 255 characters.
    #[arg(long, value_parser = title, group = "change")]
    pub(super) title: Option<String>,
    /// A component that it affects, too: its id, its name, or "Name (region=R1, type=dns)". Repeat
    /// it for several.
    #[arg(long = "add-component", value_name = "COMPONENT", group = "change")]
    pub(super) add: Vec<ComponentName>,
}

/// Returns what to print.
pub(super) async fn run(arguments: IncidentArguments, settings: &Settings) -> Result<String> {
    let database = &mut connect(settings).await?;
    let incident = match arguments.command {
        IncidentCommand::List => {
            let all = operator::list(database).await?;
            return printed(&all, || table(&all), arguments.json);
        }
        IncidentCommand::Show { id } => operator::show(database, IncidentId(id)).await?,
        IncidentCommand::Open { new, impact, start } => {
            let NewArguments { title, components } = new;
            let new = New::Incident { impact, start };
            operator::open(database, new, &title, &components).await?
        }
        IncidentCommand::Comment { id, status, text } => {
            operator::comment(database, IncidentId(id), &status, text).await?
        }
        IncidentCommand::Change { id, wanted, impact } => {
            let ChangeArguments { title, add } = wanted;
            let wanted = IncidentChange { title, impact, add, ..IncidentChange::default() };
            operator::change(database, IncidentId(id), IncidentKind::Incident, wanted).await?
        }
        IncidentCommand::Close { id, at, text } => {
            let closing = Closing { at, text };
            operator::close(database, IncidentId(id), IncidentKind::Incident, closing).await?
        }
        IncidentCommand::RemoveComponent { id, component } => {
            operator::remove_component(database, IncidentId(id), component).await?
        }
    };
    printed(&incident, || everything(&incident), arguments.json)
}
