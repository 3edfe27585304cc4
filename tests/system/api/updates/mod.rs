//! `POST /api/v1/updates`: many updates in one request, each with a result of its own.

mod limits;
mod results;
mod servers;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use harness::{System, answer, tests_of};

tests_of!(limits, results, servers);

const PATH: &str = "/api/v1/updates";

/// A request with these updates, with the token.
fn many_to(system: &System, gateway: usize, updates: &[Value]) -> RequestBuilder {
    let request = system.request_to(gateway, Method::POST, PATH).bearer_auth(&system.token);
    request.json(&json!({ "updates": updates }))
}

fn many(system: &System, updates: &[Value]) -> RequestBuilder {
    many_to(system, 0, updates)
}

/// Sends it and returns the results; each incident that they name is shown once, and no other.
async fn results(request: RequestBuilder) -> Result<Vec<Value>> {
    Ok(results_and_incidents(request).await?.0)
}

async fn results_and_incidents(request: RequestBuilder) -> Result<(Vec<Value>, Vec<Value>)> {
    let answer = answer(request).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let list = |name: &str| answer.body[name].as_array().cloned().context("no list");
    let (results, incidents) = (list("results")?, list("incidents")?);
    let named: BTreeSet<i64> = results.iter().filter_map(|r| r["incident"].as_i64()).collect();
    let shown: Vec<i64> = incidents.iter().filter_map(|i| i["id"].as_i64()).collect();
    ensure!(shown == named.into_iter().collect::<Vec<_>>(), "{:?}", answer.body);
    Ok((results, incidents))
}

/// The number at a key of each result; 0 where there is none.
fn numbers(results: &[Value], key: &str) -> Vec<i64> {
    results.iter().map(|result| result[key].as_i64().unwrap_or_default()).collect()
}

fn statuses(results: &[Value]) -> Vec<i64> {
    numbers(results, "status")
}

fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact })
}

fn keyed(mut update: Value, key: &str) -> Value {
    update["idempotency_key"] = json!(key);
    update
}
