//! `worker topology` and `worker broker`.

use anyhow::{Result, bail};
use clap::{Subcommand, value_parser};
use shared::{
    amqp::{
        broker::Broker,
        topology::{ARGUMENTS, MOST_PARTITIONS, Recorded},
    },
    process::{output, stop_signal},
    settings::Settings,
    wire::{envelope, message},
};

use super::{connect, printed};
use crate::broker::{
    policies,
    repartition::{self, QueueLayout, TopologyChange},
};

/// Commands on the topology.
#[derive(Subcommand)]
pub enum TopologyCommand {
    /// Show the queues and the live workers.
    Show {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change the number of queues and their limits while gateways and workers run. POST answers 503
    /// for up to 10 s: the old queues are emptied before the new ones are used, so that no update
    /// overtakes another.
    #[command(arg_required_else_help = true)]
    Change {
        /// Number of queues that the components are distributed over.
        #[arg(long, value_parser = value_parser!(u16).range(1..=i64::from(MOST_PARTITIONS)))]
        partitions: Option<u16>,
        /// Messages that one queue holds.
        #[arg(long, value_parser = value_parser!(u32).range(1..=100_000_000))]
        queue_limit: Option<u32>,
        /// Messages of one queue that a worker holds.
        #[arg(long, value_parser = value_parser!(u16).range(1..=10_000))]
        prefetch: Option<u16>,
        /// Newest version of messages that gateways write: 1, each update in a message of its own, which
        /// workers of the earlier release read; 2, several updates in one message; 3, also whose report
        /// an update is, and `ok`. Only 3 concerns gateways, too: first all of them must be of this release,
        /// which is not checked.
        #[arg(long, value_parser = value_parser!(u16).range(1..=i64::from(message::NEWEST)))]
        wire: Option<u16>,
        /// Arguments of the queues: 1, those of earlier releases, which can't use others; 2, leaders are
        /// spread over the nodes of a cluster; 3, and queues have a limit in bytes: 16 KiB for each message
        /// of their limit.
        #[arg(long, value_parser = value_parser!(u16).range(1..=i64::from(ARGUMENTS)))]
        arguments: Option<u16>,
    },
}

/// Commands on RabbitMQ.
#[derive(Subcommand)]
pub enum BrokerCommand {
    /// Find policies that can lose updates, in what `rabbitmqctl -q -p VHOST list_policies --formatter
    /// json` prints, and after it the same with `list_operator_policies`, piped in; exit with 1 when
    /// there are any.
    CheckPolicies,
}

/// Runs `worker topology`; returns what to print.
pub(super) async fn run(command: TopologyCommand, settings: &Settings) -> Result<String> {
    match command {
        TopologyCommand::Show { json } => {
            let layout = repartition::show(&mut connect(settings).await?).await?;
            printed(&layout, || text(&layout), json)
        }
        TopologyCommand::Change { partitions, queue_limit, prefetch, wire, arguments } => {
            let wanted = TopologyChange { partitions, queue_limit, prefetch, wire, arguments };
            let broker = Broker::from_settings(settings)?;
            let stop = stop_signal::token()?;
            let database = &mut connect(settings).await?;
            repartition::change(database, &broker, wanted, &stop).await
        }
    }
}

/// Runs `worker broker`; returns what to print.
pub(super) async fn check(command: BrokerCommand, settings: &Settings) -> Result<String> {
    let BrokerCommand::CheckPolicies = command;
    let printed = std::io::read_to_string(std::io::stdin())?;
    let recorded = Recorded::read(&mut connect(settings).await?).await?;
    let dangers = policies::check(&printed, recorded.topology)?;
    for danger in &dangers {
        output::line(danger)?;
    }
    if !dangers.is_empty() {
        bail!("these policies can lose updates: change them, or set one of higher priority");
    }
    Ok("No policy can lose updates.".to_owned())
}

fn text(layout: &QueueLayout) -> String {
    let workers: Vec<String> = layout.workers.iter().map(i64::to_string).collect();
    let workers = if workers.is_empty() { "none".to_owned() } else { workers.join(", ") };
    let wire = match layout.wire {
        message::REPORTS.. => "several updates in one message, with reports and `ok`",
        envelope::VERSION.. => "several updates in one message",
        _ => "each update in a message of its own",
    };
    let arguments = match layout.arguments {
        1 => "leaders are where the queues were declared",
        2 => "leaders are spread over the nodes of a cluster",
        _ => "leaders are spread over the nodes of a cluster, and bytes are limited",
    };
    [
        format!("partitions:  {}", layout.partitions),
        format!("queue limit: {} messages", layout.queue_limit),
        format!("prefetch:    {} messages", layout.prefetch),
        format!("wire:        {}, {wire}", layout.wire),
        format!("arguments:   {}, {arguments}", layout.arguments),
        format!("version:     {}, {}", layout.version, layout.phase),
        format!("workers:     {workers}"),
    ]
    .join("\n")
}
