//! The takeover of a Python installation as it is: its database, its settings and its catalogue file,
//! with every oddity that is good there.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{Fixture, System, answer, tests, token};

tests!(
    an_installation_of_alembic_is_taken_over_as_it_is,
    an_installation_of_the_orm_is_taken_over_as_it_is,
);

/// What the Python dashboard makes of the settings below.
const KEY: &str = "a-key-of-the-python-dashboard / 32+\n";
const CLAIM: &str = "status-dashboard";

/// Components as its provisioning has written them: the second DNS was never in a file.
const CONTENTS: &str = "
    INSERT INTO component (id, name) VALUES (1, 'DNS'), (2, 'CDN'), (3, 'Mail'), (9, 'DNS');
    INSERT INTO component_attribute (component_id, name, value) VALUES
        (1, 'region', 'R1'), (1, 'type', 'dns'), (1, 'category', 'Net'),
        (2, 'region', 'R1'), (2, 'type', '12'), (2, 'category', 'Net'),
        (3, 'region', 'true'), (9, 'region', 'R9');
    INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
        (1, 'Old', '0001-01-01', '2020-01-01', 2, true),
        (2, 'Manual', '2026-01-01', NULL, 2, false),
        (3, 'Maintenance', '2026-01-01', 'infinity', 0, false);
    INSERT INTO incident_component_relation VALUES (1, 1), (2, 2), (3, 3);
    INSERT INTO incident_status (incident_id, \"timestamp\", text, status) VALUES
        (1, '0001-01-01', 'No end in sight', 'analyzing'), (2, '2026-01-01', '<b>We look</b>', 'fixing');";

const CATALOGUE: &str = "\u{feff}# Of the Python dashboard
x-common: &net
  region: R1
  category: Net
version: 2
components:\r
  - name: DNS
    attributes: {type: dns, <<: *net}
    description: names
  - {name: CDN, attributes: {<<: *net, type: 12}}
  - name: Mail
    attributes:
      region: true
  - name: DNS
    attributes: {category: Net, region: R1, type: dns}
  - name: 'Enterprise Router'
    attributes: {type: er, <<: *net}
  - name: Enterprise Router
    attributes: {<<: *net, type: er}
";

async fn an_installation_of_alembic_is_taken_over_as_it_is(fixture: Arc<Fixture>) -> Result<()> {
    let version = "INSERT INTO alembic_version VALUES ('14621c95e3ee');";
    take_over(&fixture, include_str!("../../data/python-alembic.sql"), version).await
}

async fn an_installation_of_the_orm_is_taken_over_as_it_is(fixture: Arc<Fixture>) -> Result<()> {
    take_over(&fixture, include_str!("../../data/python-orm.sql"), "").await
}

async fn take_over(fixture: &Arc<Fixture>, tables: &str, more: &str) -> Result<()> {
    let mut system = System::bare(fixture).await?;
    system.sql(tables).await?;
    system.sql(&format!("{more}{CONTENTS}")).await?;
    let database = format!(" {}\n", Value::from(system.database_uri.as_str()));
    let key = format!("{}\n", Value::from(KEY));
    let variables = [
        ("SDB_DATABASE_URI", database.as_str()),
        ("SDB_SECRET_KEY", &key),
        ("SDB_API_PAYLOAD_KEY", "\"status-dashboard\""),
        ("SDB_V1_CONFLICT", "true"),
        ("SDB_GITHUB_CLIENT_ID", "12345"),
        ("SDB_INCIDENT_IMPACTS__1__key", "minor"),
        ("SDB_CACHE_DEFAULT_TIMEOUT", "30"),
        ("SDB_MAINTENANCE_STATUSES", "{\"scheduled\": \"Scheduled\"}"),
    ];
    let worker = async |arguments: &[&str]| {
        let binary = &system.context.binaries.worker;
        let (done, said) = system.context.command(binary, arguments, &variables).await?;
        ensure!(done, "{arguments:?}: {said}");
        anyhow::Ok(said)
    };
    let said = worker(&["migrate"]).await?;
    // docs/setup.md shows how many there are (`the_sample_of_migrations_is_up_to_date`).
    let all = said.strip_prefix("Applied ").and_then(|said| said.split_once(" migrations."));
    let (applied, known) = all.and_then(|(all, _)| all.split_once(" of ")).context("no number")?;
    ensure!(applied == known && known != "0", "{said}");
    let file = system.context.folder.join("catalog.yaml");
    fs::write(&file, CATALOGUE)?;
    let file = file.to_str().context("the path is no text")?;
    let said = worker(&["catalogue", "apply", file]).await?;
    for expected in [
        "line 9: `description` of DNS is unknown and ignored",
        "line 14: DNS (Net, R1, dns) is also in line 7; this entry is ignored",
        "line 18: Enterprise Router (R1, Net, er) is also in line 16; this entry is ignored",
        "added    Enterprise Router (R1, Net, er)",
        "stays    DNS (R9)",
        "1 added, 0 changed, 3 as they were, 1 not in the file",
    ] {
        ensure!(said.contains(expected), "{said} does not say {expected}");
    }
    let said = worker(&["catalogue", "apply", file]).await?;
    ensure!(said.contains("0 added, 0 changed, 4 as they were, 1 not in the file"), "{said}");

    system.start_worker(&variables).await?;
    system.start_gateway(&variables).await?;
    system.token = token(KEY, &json!({ CLAIM: "metric-processor" }));
    let update = |name: &str, impact: Value, attributes: &[(&str, &str)]| {
        let attributes: Vec<Value> = attributes
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        json!({ "name": name, "impact": impact, "text": "Incident", "attributes": attributes })
    };
    // A manual incident covers it, then a maintenance without an end.
    let covered =
        system.post(&update("CDN", json!(2), &[("region", "R1"), ("type", "12")])).await?;
    let expected = json!({
        "message": "Incident with this the component already exists",
        "targetComponent": "CDN (R1, 12, Net)",
        "existingIncidentId": 2,
        "existingIncidentTitle": "Manual",
        "details": "Check your request parameters",
    });
    ensure!(covered.status == 409 && covered.body == expected, "{covered:?}");
    let suppressed = system.post(&update("Mail", json!(3), &[("region", "true")])).await?;
    ensure!(suppressed.status == 201 && suppressed.body["id"] == 3, "{suppressed:?}");
    ensure!(suppressed.body["end_date"] == "9999-12-31 23:59", "{suppressed:?}");
    let opened = system.post(&update("DNS", json!("1"), &[("region", "R1")])).await?;
    ensure!(opened.status == 201 && opened.body["id"] == 4, "{opened:?}");
    let joined = system.post(&update("Enterprise Router", json!(1), &[("type", "er")])).await?;
    ensure!(joined.status == 201 && joined.body["id"] == 4, "{joined:?}");
    let text = &joined.body["updates"][0]["text"];
    ensure!(*text == "Enterprise Router (R1, Net, er) added to Incident", "{joined:?}");

    // The lists have all of it, page by page as well as at once.
    let all = system.get("/api/v1/incidents").await?;
    let starts: Vec<&str> = all
        .body
        .as_array()
        .context("no list")?
        .iter()
        .skip(1)
        .filter_map(|i| i["start_date"].as_str())
        .collect();
    ensure!(starts == ["2026-01-01 00:00", "2026-01-01 00:00", "0001-01-01 00:00"], "{all:?}");
    let mut path = "/api/v1/incidents?limit=1".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = answer(system.request_to(0, reqwest::Method::GET, &path)).await?;
        ensure!(page.status == 200, "{path}: {page:?}");
        pages.extend(page.body.as_array().cloned().unwrap_or_default());
        let Some((next, _)) = page.header("link").split_once('>') else { break };
        path = next.trim_start_matches('<').to_owned();
    }
    ensure!(Value::from(pages.clone()) == all.body, "{pages:?} are not {:?}", all.body);
    let shown = system.get("/api/v1/component_status").await?;
    let names: Vec<&str> = shown
        .body
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    ensure!(names == ["DNS", "CDN", "Mail", "DNS", "Enterprise Router"], "{names:?}");
    system.finish().await
}
