//! An operator without the Python dashboard's pages: commands on incidents, maintenances and the
//! catalogue, beside gateways and workers that run.

mod catalogue;
mod decisions;
mod incidents;
mod maintenances;
mod refusals;
mod reports;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use harness::{Fixture, System, tests_of};

tests_of!(catalogue, decisions, incidents, maintenances, refusals, reports);

/// The components' ids are 1 to 4.
async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let r1 = &[("region", "R1"), ("type", "dns")][..];
    let r2 = &[("region", "R2"), ("type", "dns")][..];
    let components = [("DNS", r1), ("DNS", r2), ("CDN", &[]), ("R&D <lab>", &[])];
    System::start_with(fixture, &components).await
}

/// Runs a command with `--json`, and reads what it prints.
async fn json_of(system: &System, arguments: &[&str]) -> Result<Value> {
    let said = system.worker_succeeds(&[arguments, &["--json"]].concat()).await?;
    serde_json::from_str(&said).with_context(|| format!("{arguments:?}: {said}"))
}

/// Runs a command that opens or schedules, and returns the number.
async fn opened(system: &System, arguments: &[&str]) -> Result<String> {
    let number = json_of(system, arguments).await?["id"].as_i64().context("no id")?;
    Ok(number.to_string())
}

/// Posts an update about a component, expects this status, and returns the incident.
async fn post(system: &System, name: &str, impact: u8, status: u16) -> Result<Value> {
    let body = match name {
        "DNS" => json!({ "name": name, "impact": impact, "text": format!("{name} {impact}"),
            "attributes": [{ "name": "region", "value": "R1" }] }),
        _ => json!({ "name": name, "impact": impact, "text": format!("{name} {impact}") }),
    };
    let answer = system.post(&body).await?;
    ensure!(answer.status == status, "{name} {impact}: {answer:?}, not {status}");
    Ok(answer.body)
}

/// An incident as the list shows it now.
async fn shown(system: &System, id: &Value) -> Result<Value> {
    let list = system.get("/api/v1/incidents").await?;
    let incidents = list.body.as_array().context("no list")?;
    let id = id.as_str().map_or_else(|| id.clone(), |text| json!(text.parse::<i64>().ok()));
    incidents.iter().find(|incident| incident["id"] == id).cloned().context("it is not listed")
}

/// Statuses and texts of an incident as the list shows them now, newest first.
async fn updates(system: &System, id: &Value) -> Result<Vec<(String, String)>> {
    let incident = shown(system, id).await?;
    let updates = incident["updates"].as_array().context("no updates")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(updates.iter().map(|update| (text(&update["status"]), text(&update["text"]))).collect())
}

async fn has_updates(system: &System, id: &Value, expected: &[(&str, &str)]) -> Result<()> {
    let updates = updates(system, id).await?;
    let updates: Vec<_> = updates.iter().map(|(s, t)| (s.as_str(), t.as_str())).collect();
    ensure!(updates == expected, "{id}: {updates:#?}, not {expected:#?}");
    Ok(())
}

/// The ids of the components that an incident has.
async fn components(system: &System, id: &str) -> Result<Vec<i64>> {
    let query = format!(
        "SELECT component_id::bigint FROM incident_component_relation
        WHERE incident_id = {id} ORDER BY 1"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&system.database).await?)
}

/// `YYYY-MM-DD HH:MM`, so many minutes from now.
async fn minutes_from_now(system: &System, minutes: i64) -> Result<String> {
    let query = format!(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '{minutes} minutes',
            'YYYY-MM-DD HH24:MI')"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&system.database).await?)
}

/// Every row that an operator's commands may change.
async fn contents(system: &System) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for table in [
        "component",
        "component_attribute",
        "incident",
        "incident_component_relation",
        "incident_status",
        "sdb_version",
    ] {
        let query = format!("SELECT '{table} ' || t::text FROM {table} t ORDER BY 1");
        rows.extend(
            sqlx::query_scalar::<_, String>(AssertSqlSafe(query))
                .fetch_all(&system.database)
                .await?,
        );
    }
    Ok(rows)
}
