//! Workers: which partitions each has, the inbox, and the rows that they share with other writers.

pub(crate) mod envelopes;
mod foreign_edits;
mod held_rows;
mod inbox;
mod new_queues;
mod repartition;
mod rolling_restart;
pub(crate) mod spreading;
mod wire;
mod wire_version;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{System, tests_of};

tests_of!(
    envelopes,
    foreign_edits,
    held_rows,
    inbox,
    new_queues,
    repartition,
    rolling_restart,
    spreading,
    wire,
    wire_version,
);

/// An update whose text names what it reports.
fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact, "text": format!("{name} reports {impact}") })
}

/// Runs `worker topology change` with these arguments beside updates; returns what it said. A slow machine may not
/// empty the queues in time: such a command changes nothing, and an operator gives it again.
async fn topology_is_changed(system: &System, arguments: &[&str]) -> Result<String> {
    let command = [&["topology", "change"][..], arguments].concat();
    let (done, said) = system.worker_command(&command).await?;
    if done {
        return Ok(said);
    }
    ensure!(said.contains("nothing was changed"), "{said}");
    system.worker_succeeds(&command).await
}

/// Posts an update that is decided within its deadline, expects this status, and returns the incident's id.
async fn decided(system: &System, name: &str, impact: u8, status: u16) -> Result<i64> {
    let answer = system.post(&update(name, impact)).await?;
    ensure!(answer.status == status, "{name} {impact}: {answer:?}, not {status}");
    answer.body["id"].as_i64().context("the answer has no incident")
}

/// Posts an update without waiting for its outcome, and returns its id.
async fn accepted(system: &System, name: &str, impact: u8) -> Result<String> {
    system.post_async(0, &update(name, impact)).await
}
