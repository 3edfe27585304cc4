//! `worker report`.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use shared::{
    amqp::broker::Broker,
    database::components,
    domain::{component::ComponentId, update_id::UpdateId},
    settings::Settings,
    wire::message::{Report, is_source},
};

use super::{connect, printed};
use crate::{
    broker::report_end,
    operator::{ComponentName, one},
    store::reports::{self, LiveReport},
};

/// `worker report`.
#[derive(Args)]
pub struct ReportArguments {
    #[command(subcommand)]
    command: ReportCommand,
}

#[derive(Subcommand)]
enum ReportCommand {
    /// List the reports that stand: component, source, key, times of the first and the last update.
    List {
        /// Only those of this component: its id, or its name, with attributes where several have it, as
        /// in `DNS (region=R1)`.
        #[arg(long)]
        component: Option<ComponentName>,
        /// As JSON; its times are RFC 3339, UTC.
        #[arg(long)]
        json: bool,
    },
    /// End a report that stands, as an `ok` of its source does: through the queue of the component, behind all
    /// updates that are in it. Without other reports, the component leaves its system incident.
    End {
        /// The component: its id, or its name, with attributes where several have it.
        component: ComponentName,
        /// The source; without it, the source of updates that name none.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = source)]
        source: String,
        /// The key; without it, the report without a key.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = source)]
        key: String,
        /// Send the `ok` even if no such report stands. If the component has no other report either, it leaves
        /// its system incident, unless this report ended less than a day ago.
        #[arg(long)]
        force: bool,
        /// The id of the `ok`, as an earlier run of this command printed it: however often it is sent, it is
        /// applied once.
        #[arg(long, value_parser = update_id)]
        id: Option<UpdateId>,
    },
}

/// A report with the name of its component.
#[derive(Serialize)]
struct Line {
    component: Option<String>,
    #[serde(flatten)]
    report: LiveReport,
}

fn source(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || is_source(text) {
        Ok(text.to_owned())
    } else {
        Err("it has more than 255 characters, or a control character")
    }
}

fn update_id(text: &str) -> Result<UpdateId, &'static str> {
    let id = text.parse().map(UpdateId).ok();
    id.filter(|id| id.made_at().is_some()).ok_or("it is not the id of an update, a UUIDv7")
}

/// Returns what to print.
pub(super) async fn run(arguments: ReportArguments, settings: &Settings) -> Result<String> {
    let database = &mut connect(settings).await?;
    match arguments.command {
        ReportCommand::List { component, json } => {
            let component = match component {
                Some(name) => Some(one(database, &name).await?.id),
                None => None,
            };
            let live = reports::list(database, component).await?;
            let all = components::read_all(database).await?;
            let labels: HashMap<ComponentId, String> =
                all.into_iter().map(|component| (component.id, component.label())).collect();
            let line = |report: LiveReport| Line {
                component: labels.get(&report.component_id).cloned(),
                report,
            };
            let lines: Vec<Line> = live.into_iter().map(line).collect();
            printed(&lines, || list(&lines), json)
        }
        ReportCommand::End { component, source, key, force, id } => {
            let component = one(database, &component).await?;
            ensure!(
                force || reports::is_live(database, component.id, &source, &key).await?,
                "no such report stands: `worker report list --component {}` lists those that do, and \
                `--force` sends the `ok` nevertheless",
                component.id
            );
            let broker = Broker::from_settings(settings)?;
            let label = component.label();
            report_end::end(
                database,
                &broker,
                component,
                Report { source, key, ..Report::default() },
                id,
            )
            .await?;
            Ok(format!("Queued: it ends the report on {label}."))
        }
    }
}

/// A line for each.
fn list(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "No report stands.".to_owned();
    }
    let line = |Line { component, report }: &Line| {
        format!(
            "{:>6}  {}  source {:?}  key {:?}  since {:.19}  last {:.19}",
            report.component_id,
            component.as_deref().unwrap_or("-"),
            report.source,
            report.key,
            report.first_at.to_the_microsecond(),
            report.last_at.to_the_microsecond(),
        )
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}
