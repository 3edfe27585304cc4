//! The recorded scenarios of the Python dashboard, over HTTP against the running system.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{Fixture, System, tests};

tests!(
    first_quarter_of_the_scenarios,
    second_quarter_of_the_scenarios,
    third_quarter_of_the_scenarios,
    fourth_quarter_of_the_scenarios,
);

const SCENARIOS: &str = include_str!("../data/v1-scenarios.json");

async fn first_quarter_of_the_scenarios(fixture: Arc<Fixture>) -> Result<()> {
    quarter(&fixture, 0).await
}

async fn second_quarter_of_the_scenarios(fixture: Arc<Fixture>) -> Result<()> {
    quarter(&fixture, 1).await
}

async fn third_quarter_of_the_scenarios(fixture: Arc<Fixture>) -> Result<()> {
    quarter(&fixture, 2).await
}

async fn fourth_quarter_of_the_scenarios(fixture: Arc<Fixture>) -> Result<()> {
    quarter(&fixture, 3).await
}

async fn quarter(fixture: &Arc<Fixture>, quarter: usize) -> Result<()> {
    let scenarios: Vec<Value> = serde_json::from_str(SCENARIOS)?;
    ensure!(scenarios.len() == 150, "the recordings are not whole");
    let system = System::start(fixture).await?;
    for scenario in scenarios.iter().skip(quarter).step_by(4) {
        play(&system, scenario).await.with_context(|| format!("seed {}", scenario["seed"]))?;
    }
    system.finish().await
}

/// Plays one scenario from empty tables and compares every answer and what is shown at the end.
async fn play(system: &System, scenario: &Value) -> Result<()> {
    set_up(system, scenario).await?;
    let posts = list(&scenario["posts"]);
    for (post, recorded) in posts.iter().zip(list(&scenario["answers"])) {
        let answer = system.post(post).await?;
        let incident = &answer.body;
        ensure!(incident["id"] == recorded["incident"], "{post} gave {answer:?}, not {recorded}");
        match recorded["effect"].as_str() {
            // The reference answers 201 with a maintenance that changed nothing, too.
            Some("incident") => {
                let suppressed = recorded["body"]["impact"] == 0;
                ensure!(answer.status == if suppressed { 200 } else { 201 }, "{post}: {answer:?}");
                ensure!(
                    comparable(incident) == comparable_recorded(&recorded["body"]),
                    "{answer:?}"
                );
            }
            Some("none") => ensure!(answer.status == 200, "{post} gave {answer:?}"),
            other => anyhow::bail!("unknown effect {other:?}"),
        }
        ensure!(!answer.header("update-id").is_empty(), "no Update-Id");
    }

    let shown = system.get("/api/v1/incidents").await?;
    let mut incidents: Vec<Value> = list(&shown.body).iter().map(comparable).collect();
    incidents.sort_by_key(|incident| incident["id"].as_i64());
    let recorded: Vec<Value> =
        list(&scenario["final"]["incidents"]).iter().map(comparable_recorded).collect();
    ensure!(incidents == recorded, "incidents are {incidents:#?}, not {recorded:#?}");

    let shown = system.get("/api/v1/component_status").await?;
    let components: Vec<Value> = list(&shown.body).iter().map(component).collect();
    let recorded = list(&scenario["final"]["components"]).to_vec();
    ensure!(components == recorded, "components are {components:#?}, not {recorded:#?}");
    Ok(())
}

async fn set_up(system: &System, scenario: &Value) -> Result<()> {
    let mut script = "TRUNCATE component, component_attribute, incident,
        incident_component_relation, incident_status RESTART IDENTITY;"
        .to_owned();
    for (id, component) in (1..).zip(list(&scenario["components"])) {
        let name = quoted(&component["name"]);
        writeln!(script, "INSERT INTO component (name) VALUES ({name});")?;
        for (name, value) in component["attributes"].as_object().into_iter().flatten() {
            writeln!(
                script,
                "INSERT INTO component_attribute (component_id, name, value)
                VALUES ({id}, '{name}', {});",
                quoted(value)
            )?;
        }
    }
    for (id, preset) in (1..).zip(list(&scenario["preset"])) {
        let (start, end) = match preset["window"].as_str() {
            Some("open") => ("-1", None),
            Some("running") => ("-1", Some("1")),
            Some("future") => ("1", Some("2")),
            Some("past" | "closed") => ("-3", Some("-2")),
            other => anyhow::bail!("unknown window {other:?}"),
        };
        let at = |hours: &str| {
            format!("(clock_timestamp() AT TIME ZONE 'UTC') + interval '{hours} hours'")
        };
        writeln!(
            script,
            "INSERT INTO incident (text, start_date, end_date, impact, system)
            VALUES ('preset {}', {}, {}, {}, {});",
            preset["kind"].as_str().context("no kind")?,
            at(start),
            end.map_or("NULL".to_owned(), at),
            preset["impact"],
            preset["system"],
        )?;
        for index in list(&preset["components"]) {
            let component = index.as_i64().context("no index")? + 1;
            writeln!(
                script,
                "INSERT INTO incident_component_relation VALUES ({id}, {component});"
            )?;
        }
    }
    system.sql(&script).await?;
    system.catalogue_seen().await
}

/// What the recordings have of an incident.
fn comparable(incident: &Value) -> Value {
    let updates: Vec<Value> = list(&incident["updates"])
        .iter()
        .map(|update| json!({ "status": update["status"], "text": update["text"] }))
        .collect();
    json!({
        "id": incident["id"],
        "text": incident["text"],
        "impact": incident["impact"],
        "open": incident["end_date"].is_null(),
        "updates": updates,
    })
}

fn comparable_recorded(incident: &Value) -> Value {
    let keys = ["id", "text", "impact", "open", "updates"];
    keys.into_iter().map(|key| (key.to_owned(), incident[key].clone())).collect()
}

fn component(component: &Value) -> Value {
    let attributes: serde_json::Map<String, Value> = list(&component["attributes"])
        .iter()
        .map(|a| (a["name"].as_str().unwrap_or_default().to_owned(), a["value"].clone()))
        .collect();
    let incidents: BTreeSet<i64> =
        list(&component["incidents"]).iter().filter_map(|i| i["id"].as_i64()).collect();
    json!({
        "id": component["id"],
        "name": component["name"],
        "attributes": attributes,
        "incidents": incidents,
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn quoted(value: &Value) -> String {
    format!("'{}'", value.as_str().unwrap_or_default().replace('\'', "''"))
}
