//! `worker report`.

use std::collections::HashMap;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use shared::{
    broker::Broker, component::ComponentId, database::components, message::is_source,
    settings::Settings,
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
    /// End a report, as an `ok` of its source does: through the queue of the component, behind all updates
    /// that are in it. Without other reports, the component leaves its system incident.
    End {
        /// The component: its id, or its name, with attributes where several have it.
        component: ComponentName,
        /// The source; without it, the source of updates that name none.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = source)]
        source: String,
        /// The key; without it, the report without a key.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = source)]
        key: String,
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
        ReportCommand::End { component, source, key } => {
            let component = one(database, &component).await?;
            let broker = Broker::from_settings(settings)?;
            let label = component.label();
            let id = report_end::end(database, &broker, component, source, key).await?;
            Ok(format!("Queued: the report on {label} ends with the update {id}."))
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
