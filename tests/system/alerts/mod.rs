//! Alerts: what becomes of them at the gateways' endpoints, the commands on the mapping, and its reference.

mod check;
mod dry_run;
mod encodings;
mod ends;
mod interrupted;
mod limits;
mod pipeline;
mod receive;
mod recipes;
mod reference;
mod refusals;
mod reload;
mod setup;
mod try_out;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::telemetry::Scrape;
use harness::{Fixture, System, eventually, tests_of};

tests_of!(
    check,
    dry_run,
    encodings,
    ends,
    interrupted,
    limits,
    pipeline,
    receive,
    recipes,
    reference,
    refusals,
    reload,
    try_out
);

/// Where alerts are posted as to an Alertmanager.
const ALERTS: &str = "/alertmanager/api/v2/alerts";
/// Where Alertmanager's webhook posts them.
const WEBHOOK: &str = "/alertmanager/webhook";
/// Both of them.
const BOTH: [&str; 2] = [ALERTS, WEBHOOK];

/// An alert with these labels that fires, for either endpoint.
fn firing(labels: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<_, _> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({ "status": "firing", "labels": labels, "annotations": {} })
}

/// An alert with this name and this component.
fn of(component: &str, name: &str) -> Value {
    firing(&[("alertname", name), ("component", component)])
}

/// The body of an endpoint with these alerts.
fn body(path: &str, alerts: &[Value]) -> Value {
    if path.starts_with(WEBHOOK) {
        json!({ "version": "4", "status": "firing", "alerts": alerts, "truncatedAlerts": 0 })
    } else {
        json!(alerts)
    }
}

/// A request to an endpoint of one of the gateways, with the token.
fn send_to(system: &System, gateway: usize, path: &str, alerts: &[Value]) -> RequestBuilder {
    let request = system.request_to(gateway, Method::POST, path).bearer_auth(&system.token);
    request.json(&body(path, alerts))
}

fn send(system: &System, path: &str, alerts: &[Value]) -> RequestBuilder {
    send_to(system, 0, path, alerts)
}

/// A time so many seconds from now, by the database's clock, as alerts have it.
async fn from_now(system: &System, seconds: i64) -> Result<String> {
    let time = format!(
        "SELECT to_char((clock_timestamp() + interval '{seconds} seconds') AT TIME ZONE 'UTC',
            'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
    );
    system.texts(&time).await?.pop().context("no time")
}

/// The titles of the active incidents, with the names of their components.
async fn incidents(system: &System) -> Result<Vec<String>> {
    let query = "SELECT format('%s: %s', i.text, string_agg(c.name, ' ' ORDER BY c.name))
        FROM incident i
        JOIN incident_component_relation r ON r.incident_id = i.id
        JOIN component c ON c.id = r.component_id
        WHERE i.end_date IS NULL GROUP BY i.id ORDER BY i.id";
    system.texts(query).await
}

/// Waits until these are the titles of the active incidents, with the names of their components.
async fn incidents_are(system: &System, expected: &[&str]) -> Result<()> {
    let what = format!("the active incidents are {expected:?}");
    eventually(&what, async || Ok(incidents(system).await? == expected)).await
}

/// A file with what a Prometheus or an Alertmanager has sent.
fn recorded(name: &str) -> PathBuf {
    deploy::checkout().join("tests/data/alerts").join(name)
}

/// The metrics of one of the gateways.
async fn metrics(system: &System, gateway: usize) -> Result<Scrape> {
    let address = system.addresses.get(gateway).context("no such gateway")?;
    Scrape::of(system, address).await
}

/// Writes a mapping file into the test's folder; returns its path.
fn written(fixture: &Fixture, name: &str, yaml: &str) -> Result<String> {
    let path = fixture.folder.join(name);
    fs::write(&path, yaml)?;
    Ok(path.display().to_string())
}

/// Runs `gateway mapping`; returns whether it succeeded and what it printed.
async fn mapping(
    fixture: &Arc<Fixture>,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<(bool, String)> {
    let gateway: &Path = &fixture.binaries.gateway;
    fixture.command(gateway, &[&["mapping"], arguments].concat(), variables).await
}
