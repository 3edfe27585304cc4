//! The recorded scenarios of the Python dashboard, over HTTP against the running system: by a gateway
//! as it is by default, and by one that answers as the Python dashboard does.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{Fixture, System, answer, tests};

tests!(
    first_quarter_of_the_scenarios,
    second_quarter_of_the_scenarios,
    third_quarter_of_the_scenarios,
    fourth_quarter_of_the_scenarios,
);

const SCENARIOS: &str = include_str!("../../data/v1-scenarios.json");

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
    let mut system = System::start(fixture).await?;
    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    for scenario in scenarios.iter().skip(quarter).step_by(4) {
        for answers in [Answers::Own, Answers::Python] {
            play(&system, scenario, answers)
                .await
                .with_context(|| format!("seed {}, {answers:?}", scenario["seed"]))?;
        }
    }
    system.finish().await
}

/// How a gateway answers an update that changes nothing.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// 200 and what covers the component.
    Own,
    /// 201 and the maintenance, or 409 and the name of the incident, as the Python dashboard does.
    Python,
}

/// Plays one scenario from empty tables and compares every answer and what is shown at the end.
async fn play(system: &System, scenario: &Value, answers: Answers) -> Result<()> {
    set_up(system, scenario).await?;
    let gateway = match answers {
        Answers::Own => 0,
        Answers::Python => 1,
    };
    let posts = list(&scenario["posts"]);
    for (post, recorded) in posts.iter().zip(list(&scenario["answers"])) {
        let answer = answer(system.update_to(gateway, post).header("Prefer", "wait=30")).await?;
        let incident = &answer.body;
        match (recorded["effect"].as_str(), answers) {
            (Some("incident"), _) => {
                let suppressed = recorded["body"]["impact"] == 0;
                let status = match answers {
                    Answers::Own if suppressed => 200,
                    Answers::Own | Answers::Python => 201,
                };
                ensure!(answer.status == status, "{post}: {answer:?}");
                ensure!(
                    comparable(incident) == comparable_recorded(&recorded["body"]),
                    "{answer:?}"
                );
            }
            (Some("none"), Answers::Own) => {
                ensure!(answer.status == 200, "{post} gave {answer:?}");
                ensure!(
                    incident["id"] == recorded["incident"],
                    "{post}: {answer:?}, not {recorded}"
                );
            }
            (Some("none"), Answers::Python) => {
                ensure!(answer.status == 409, "{post} gave {answer:?}");
                let expected = conflict(scenario, post, &recorded["incident"])?;
                ensure!(answer.body == expected, "{post} gave {answer:?}, not {expected}");
            }
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

/// What the Python dashboard says of an update that this incident covers.
fn conflict(scenario: &Value, post: &Value, incident: &Value) -> Result<Value> {
    let titled = list(&scenario["final"]["incidents"]).iter().find(|one| one["id"] == *incident);
    let title = &titled.context("an incident that is not there")?["text"];
    let posted: Vec<(&str, &Value)> = list(&post["attributes"])
        .iter()
        .map(|attribute| (attribute["name"].as_str().unwrap_or_default(), &attribute["value"]))
        .collect();
    let attributes = |component: &Value| component["attributes"].as_object().cloned();
    let meant: Vec<&Value> = list(&scenario["components"])
        .iter()
        .filter(|component| component["name"] == post["name"])
        .filter(|component| posted.iter().all(|(name, v)| component["attributes"][*name] == **v))
        .collect();
    let exact =
        |component: &&&Value| attributes(component).is_some_and(|a| a.len() == posted.len());
    let component = meant.iter().find(exact).or(meant.first()).context("no component")?;
    let attributes = attributes(component).unwrap_or_default();
    let values: Vec<&str> = attributes.values().filter_map(Value::as_str).collect();
    let name = component["name"].as_str().context("no name")?;
    Ok(json!({
        "message": "Incident with this the component already exists",
        "targetComponent": format!("{name} ({})", values.join(", ")),
        "existingIncidentId": incident,
        "existingIncidentTitle": title,
        "details": "Check your request parameters",
    }))
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
