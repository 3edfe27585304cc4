//! Rows that others hold: an open transaction of the Python dashboard, an operator or a person with psql
//! holds up the updates that need its rows, and nothing else.

mod order;
mod rows;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{Fixture, System, tests_of};

tests_of!(order, rows);

const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";

/// One queue, of which a worker holds few messages; the components' ids are 1, 2, 3 and 4.
async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system =
        System::prepared_with(fixture, &[("SDB_PARTITIONS", "1"), ("SDB_PREFETCH", "8")]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[]), ("VPN", &[])]).await?;
    Ok(system)
}

fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact, "text": format!("{name} reports {impact}") })
}

/// Posts an update that is decided within its deadline; returns the incident's id.
async fn decided(system: &System, name: &str, impact: u8, status: u16) -> Result<i64> {
    let answer = system.post(&update(name, impact)).await?;
    ensure!(answer.status == status, "{name} {impact}: {answer:?}, not {status}");
    answer.body["id"].as_i64().context("the answer has no incident")
}
