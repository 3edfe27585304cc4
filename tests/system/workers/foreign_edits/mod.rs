//! Other writers to the tables, above all the Python dashboard and its operators: updates honour
//! what they wrote, lists show it at once, and neither stops the other.

mod incidents;
mod relations;
mod transactions;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};

use harness::{Fixture, System, answer, eventually, tests_of};

tests_of!(incidents, relations, transactions);

const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";

/// The components' ids are 1, 2 and 3.
async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let system = System::start(fixture).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[])]).await?;
    Ok(system)
}

fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact, "text": format!("{name} reports {impact}") })
}

/// Posts an update, expects this status, and returns the incident's id.
async fn post(system: &System, name: &str, impact: u8, status: u16) -> Result<i64> {
    let answer = system.post(&update(name, impact)).await?;
    ensure!(answer.status == status, "{name} {impact}: {answer:?}, not {status}");
    answer.body["id"].as_i64().context("the answer has no incident")
}

/// Posts an update without waiting for its outcome, and returns the address of its receipt.
async fn post_async(system: &System, name: &str, impact: u8) -> Result<String> {
    let accepted =
        answer(system.update(&update(name, impact)).header("Prefer", "respond-async")).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    Ok(accepted.header("location").to_owned())
}

/// Waits until the update is done, and returns its receipt.
async fn done(system: &System, receipt: &str) -> Result<Value> {
    let mut body = Value::Null;
    eventually("the update is done", async || {
        body = system.get(receipt).await?.body;
        Ok(body["state"] != "pending")
    })
    .await?;
    ensure!(body["state"] == "done", "{body}");
    Ok(body)
}

/// An incident as the list shows it now.
async fn shown(system: &System, id: i64) -> Result<Value> {
    let list = system.get("/api/v1/incidents").await?;
    let incidents = list.body.as_array().context("no list")?;
    incidents.iter().find(|incident| incident["id"] == id).cloned().context("it is not listed")
}

/// The ids of the incidents that the list shows for a component now.
async fn incidents_of(system: &System, component: usize) -> Result<Vec<i64>> {
    let list = system.get("/api/v1/component_status").await?;
    let incidents = list.body[component - 1]["incidents"].as_array().context("no incidents")?;
    let mut ids: Vec<i64> =
        incidents.iter().filter_map(|incident| incident["id"].as_i64()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// All that the tables have about an incident.
async fn rows_of(system: &System, id: i64) -> Result<String> {
    let query = format!(
        "SELECT json_build_array(
            (SELECT row_to_json(i) FROM incident i WHERE id = {id}),
            (SELECT json_agg(r ORDER BY component_id) FROM incident_component_relation r
                WHERE incident_id = {id}),
            (SELECT json_agg(s ORDER BY id) FROM incident_status s WHERE incident_id = {id}))::text"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&system.database).await?)
}

async fn begin(system: &System, statements: &str) -> Result<Transaction<'static, Postgres>> {
    let mut transaction = system.database.begin().await?;
    run(&mut transaction, statements).await?;
    Ok(transaction)
}

async fn run(connection: &mut PgConnection, statements: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(connection).await?;
    Ok(())
}

/// Waits until the worker's log says that updates wait for rows that another session holds.
async fn updates_wait(system: &System) -> Result<()> {
    eventually("updates wait", async || {
        Ok(system.workers[0].log()?.contains("updates wait: another session holds rows"))
    })
    .await
}
