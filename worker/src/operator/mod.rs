//! An operator's commands on incidents and maintenances: what the Python dashboard's pages do, with
//! its status words, and one update of the incident for each change.

mod change;
mod component;
mod incident;
mod transaction;

use std::fmt::Display;

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use shared::{impact::Impact, incident::IncidentId, timestamp::Timestamp};
use sqlx::PgConnection;

use self::{
    change::{Closing, IncidentChange, New},
    component::ComponentName,
    incident::{Kind, Table},
};

/// Characters of a title, at most: as many as an update may bring.
const TITLE_LIMIT: usize = 255;

/// `worker incident`.
#[derive(Args)]
pub struct IncidentArguments {
    #[command(subcommand)]
    command: IncidentCommand,
    /// Print JSON; its times are RFC 3339, UTC.
    #[arg(long, global = true)]
    json: bool,
}

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
enum IncidentCommand {
    /// List what is active, and the maintenances that are scheduled; newest start first.
    List,
    /// Show all there is about an incident or a maintenance, also a closed one.
    Show {
        /// Its number.
        id: i32,
    },
    /// Open an incident of a person. Updates never change it; those of its components up to its
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
    /// Write an update of an incident or a maintenance. An incident of the system becomes a
    /// person's by it: updates leave it alone from then on.
    Comment {
        /// Its number.
        id: i32,
        /// Of an incident: analyzing, fixing, observing. Of a maintenance: scheduled, "in progress".
        #[arg(long, value_name = "WORD")]
        status: String,
        /// What to say; dashboards show it as HTML.
        #[arg(value_parser = words)]
        text: String,
    },
    /// Change an incident, with an update for each change. An incident of the system becomes a
    /// person's by it: updates leave it alone from then on.
    #[command(group(ArgGroup::new("change").required(true).multiple(true)))]
    Change {
        /// Its number.
        id: i32,
        #[command(flatten)]
        wanted: ChangeArguments,
        /// Its new impact, higher or lower: 1 (minor), 2 (major) or 3 (outage).
        #[arg(long, value_parser = impact, group = "change")]
        impact: Option<Impact>,
    },
    /// Close an incident: an update `resolved`, and its end.
    Close {
        /// Its number.
        id: i32,
        /// When it ended, between its start and now; now, unless it is given. UTC as
        /// `YYYY-MM-DD HH:MM`, or RFC 3339.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// What to say in the update; dashboards show it as HTML.
        #[arg(long, default_value = "Incident resolved", value_parser = words)]
        text: String,
    },
    /// Take a component out of an incident or a maintenance. An incident of the system stays the
    /// system's: the component's next update may bring it back.
    RemoveComponent {
        /// Its number.
        id: i32,
        /// The component: its id, its name, or "Name (region=R1, type=dns)".
        component: ComponentName,
    },
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
    /// Change a maintenance that has not ended, with an update for each change.
    #[command(group(ArgGroup::new("change").required(true).multiple(true)))]
    Change {
        /// Its number.
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
        /// Its number.
        id: i32,
        /// What to say in the update; dashboards show it as HTML.
        #[arg(long, default_value = "Maintenance completed", value_parser = words)]
        text: String,
    },
}

#[derive(Args)]
struct NewArguments {
    /// Its title, at most 255 characters.
    #[arg(long, value_parser = title)]
    title: String,
    /// A component that it affects: its id, its name, or "Name (region=R1, type=dns)". Repeat it for
    /// several.
    #[arg(long = "component", value_name = "COMPONENT", required = true)]
    components: Vec<ComponentName>,
}

#[derive(Args)]
#[group(skip)]
struct ChangeArguments {
    /// Its new title, at most 255 characters.
    #[arg(long, value_parser = title, group = "change")]
    title: Option<String>,
    /// A component that it affects, too: its id, its name, or "Name (region=R1, type=dns)". Repeat
    /// it for several.
    #[arg(long = "add-component", value_name = "COMPONENT", group = "change")]
    add: Vec<ComponentName>,
}

fn impact(text: &str) -> Result<Impact, &'static str> {
    let by_word = Impact::REPORTABLE.into_iter().find(|impact| impact.word() == text);
    let by_number = || Impact::try_from(text.parse::<i16>().ok()?).ok();
    match by_word.or_else(by_number) {
        Some(impact @ (Impact::Minor | Impact::Major | Impact::Outage)) => Ok(impact),
        Some(Impact::Maintenance) => Err("0 is a maintenance: see `worker maintenance`"),
        None => Err("write 1 (minor), 2 (major) or 3 (outage)"),
    }
}

fn title(text: &str) -> Result<String, &'static str> {
    if text.chars().count() > TITLE_LIMIT {
        return Err("it has more than 255 characters");
    }
    if text.chars().any(char::is_control) {
        return Err("it has a control character");
    }
    words(text)
}

fn words(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("it is empty") } else { Ok(text.to_owned()) }
}

/// Runs `worker incident`; returns what to print.
///
/// # Errors
/// When what is asked makes no sense, or the database fails: nothing was changed then.
pub async fn incident(arguments: IncidentArguments, database: &mut PgConnection) -> Result<String> {
    let json = arguments.json;
    let shown = match arguments.command {
        IncidentCommand::List => {
            let all = incident::list(database).await?;
            return printed(&all, Table(&all), json);
        }
        IncidentCommand::Show { id } => {
            let now = incident::now(database).await?;
            incident::read(database, IncidentId(id), now).await?
        }
        IncidentCommand::Open { new, impact, start } => {
            let NewArguments { title, components } = new;
            change::open(database, New::Incident { impact, start }, title, &components).await?
        }
        IncidentCommand::Comment { id, status, text } => {
            change::comment(database, IncidentId(id), &status, &text).await?
        }
        IncidentCommand::Change { id, wanted, impact } => {
            let ChangeArguments { title, add } = wanted;
            let wanted = IncidentChange { title, impact, add, ..IncidentChange::default() };
            change::change(database, IncidentId(id), Kind::Incident, wanted).await?
        }
        IncidentCommand::Close { id, at, text } => {
            let closing = Closing { at, text };
            change::close(database, IncidentId(id), Kind::Incident, closing).await?
        }
        IncidentCommand::RemoveComponent { id, component } => {
            change::remove_component(database, IncidentId(id), component).await?
        }
    };
    printed(&shown, &shown, json)
}

/// Runs `worker maintenance`; returns what to print.
///
/// # Errors
/// When what is asked makes no sense, or the database fails: nothing was changed then.
pub async fn maintenance(
    arguments: MaintenanceArguments,
    database: &mut PgConnection,
) -> Result<String> {
    let shown = match arguments.command {
        MaintenanceCommand::Schedule { new, start, end, description } => {
            let NewArguments { title, components } = new;
            let new = New::Maintenance { start, end, description };
            change::open(database, new, title, &components).await?
        }
        MaintenanceCommand::Change { id, wanted, start, end } => {
            let ChangeArguments { title, add } = wanted;
            let wanted = IncidentChange { title, start, end, add, impact: None };
            change::change(database, IncidentId(id), Kind::Maintenance, wanted).await?
        }
        MaintenanceCommand::End { id, text } => {
            let closing = Closing { at: None, text };
            change::close(database, IncidentId(id), Kind::Maintenance, closing).await?
        }
    };
    printed(&shown, &shown, arguments.json)
}

/// What a command prints about a value: its text, or JSON where that is asked for.
///
/// # Errors
/// When the value can't be written as JSON.
pub fn printed(value: &impl Serialize, text: impl Display, json: bool) -> Result<String> {
    Ok(if json { serde_json::to_string_pretty(value)? } else { text.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impacts_are_read_as_numbers_and_words() {
        for (text, means) in [
            ("1", Impact::Minor),
            ("2", Impact::Major),
            ("3", Impact::Outage),
            ("minor", Impact::Minor),
            ("outage", Impact::Outage),
        ] {
            assert_eq!(impact(text), Ok(means), "{text}");
        }
        for (text, says) in [("0", "maintenance"), ("4", "write 1"), ("bad", "write 1")] {
            assert!(impact(text).is_err_and(|error| error.contains(says)), "{text}");
        }
    }

    #[test]
    fn titles_are_what_an_update_may_bring() {
        let (fits, long) = ("ü".repeat(255), "ü".repeat(256));
        assert_eq!(title(&fits), Ok(fits.clone()));
        for (text, says) in [(long.as_str(), "255"), ("a\nb", "control"), (" ", "empty")] {
            assert!(title(text).is_err_and(|error| error.contains(says)), "{text}");
        }
        assert_eq!(words("two\nlines"), Ok("two\nlines".to_owned()));
    }
}
