//! Other writers to the tables, above all the Python dashboard and its operators: updates honour
//! what they wrote, lists show it at once, and neither stops the other.

mod affected;
mod incidents;
mod killed;
mod noted;
mod plans;
mod random;
mod relations;
mod transactions;

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};

use harness::{Component, Fixture, System, eventually, tests_of};

tests_of!(affected, incidents, killed, noted, plans, random, relations, transactions);

/// The components' ids are 1, 2 and 3.
const COMPONENTS: &[Component<'_>] = &[("DNS", &[]), ("CDN", &[]), ("Mail", &[])];

async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    System::start_with(fixture, COMPONENTS).await
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
