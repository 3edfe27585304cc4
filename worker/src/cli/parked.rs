//! `worker parked`.

use anyhow::Result;
use clap::Subcommand;
use shared::{
    amqp::broker::Broker, domain::timestamp::Timestamp, settings::Settings,
    wire::message::UpdateMessage,
};

use super::{connect, printed};
use crate::{
    broker::requeue::{self, ParkedSelection},
    store::parked::ParkedMessage,
};

/// Commands on parked updates.
#[derive(Subcommand)]
pub enum ParkedCommand {
    /// List the parked updates, oldest first: number, time, component, reason.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show everything about some of them.
    Show {
        /// Their numbers.
        #[arg(required = true)]
        ids: Vec<i64>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Requeue some, when the cause is fixed: each at the end of its queue. What can't be applied
    /// again is parked again.
    #[command(visible_alias = "put-back", arg_required_else_help = true)]
    Requeue {
        /// Their numbers.
        #[arg(conflicts_with = "all", required_unless_present = "all")]
        ids: Vec<i64>,
        /// All of them, in the order in which they were parked.
        #[arg(long)]
        all: bool,
    },
}

/// Returns what to print.
pub(super) async fn run(command: ParkedCommand, settings: &Settings) -> Result<String> {
    let database = &mut connect(settings).await?;
    match command {
        ParkedCommand::List { json } => {
            let all = requeue::select(database, &ParkedSelection::All).await?;
            printed(&all, || list(&all), json)
        }
        ParkedCommand::Show { ids, json } => {
            let these = requeue::select(database, &ParkedSelection::These(ids)).await?;
            let texts = || these.iter().map(everything).collect::<Vec<_>>().join("\n\n");
            printed(&these, texts, json)
        }
        ParkedCommand::Requeue { ids, all } => {
            let which = if all { ParkedSelection::All } else { ParkedSelection::These(ids) };
            let broker = Broker::from_settings(settings)?;
            let count = requeue::requeue(database, &broker, &which).await?;
            Ok(format!("Requeued: {count}. `worker parked list` shows what is parked again."))
        }
    }
}

/// A line for each.
fn list(parked: &[ParkedMessage]) -> String {
    if parked.is_empty() {
        return "Nothing is parked.".to_owned();
    }
    let line = |parked: &ParkedMessage| {
        let component =
            UpdateMessage::decode(&parked.payload).map(|update| update.component.label());
        format!(
            "{:>6}  {:.19}  {}  {}{}",
            parked.id,
            parked.parked_at.to_the_microsecond(),
            shown(component.ok()),
            parked.reason,
            if parked.put_back_at.is_some() { "  (requeued, not applied yet)" } else { "" },
        )
    };
    parked.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// All there is about one.
fn everything(parked: &ParkedMessage) -> String {
    [
        format!("id:        {}", parked.id),
        format!("update:    {}", shown(parked.update_id.map(|id| id.to_string()))),
        format!("queue:     {}", parked.queue),
        format!("reason:    {}", parked.reason),
        format!("parked at: {}", parked.parked_at.to_the_microsecond()),
        format!("requeued:  {}", shown(parked.put_back_at.map(Timestamp::to_the_microsecond))),
        format!("message:   {}", String::from_utf8_lossy(&parked.payload)),
    ]
    .join("\n")
}

fn shown(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}
