//! Times at the edges of the calendar, which the tables may hold: lists and commands work with any.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use harness::{Fixture, System, tests};

tests!(
    pages_have_every_incident_once_whenever_it_began,
    updates_go_on_beside_times_without_end,
    times_are_kept_by_commands_that_are_not_about_them,
    a_time_that_the_python_dashboard_cannot_read_is_not_taken,
);

/// In order, the latest last; each stands twice.
const TIMES: [&str; 10] = [
    "-infinity",
    "4713-11-24 00:00 BC",
    "0044-03-15 00:00 BC",
    "0001-12-31 23:59:59.999999 BC",
    "0001-01-01 00:00",
    "2026-05-01 00:00",
    "9999-12-31 23:59:59.999999",
    "10000-01-01 00:00",
    "294276-12-31 23:59:59.999999",
    "infinity",
];

async fn pages_have_every_incident_once_whenever_it_began(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    for time in TIMES.iter().chain(&TIMES) {
        system
            .sql(&format!(
                "INSERT INTO component (name) VALUES ('DNS');
                INSERT INTO incident (text, start_date, end_date, impact)
                    VALUES ('{time}', '{time}', '{time}', 1);
                INSERT INTO incident_component_relation SELECT max(id), 1 FROM incident;
                INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
                    SELECT max(id), '{time}', 'x', 'y' FROM incident;"
            ))
            .await?;
    }
    let ids = |list: &Value| -> Vec<i64> {
        list.as_array().into_iter().flatten().filter_map(|one| one["id"].as_i64()).collect()
    };
    let expected: Vec<i64> = (1..=10).rev().flat_map(|place| [place + 10, place]).collect();
    let all = system.get("/api/v1/incidents").await?;
    ensure!(all.status == 200 && ids(&all.body) == expected, "{all:?}");
    for limit in 1..=3 {
        let mut path = format!("/api/v1/incidents?limit={limit}");
        let mut paged = Vec::new();
        loop {
            let page = system.get(&path).await?;
            ensure!(page.status == 200, "{path}: {page:?}");
            paged.extend(page.body.as_array().cloned().context("no list")?);
            ensure!(paged.len() <= 20, "{path} shows something again");
            let Some((next, _)) = page.header("link").split_once('>') else { break };
            path = next.trim_start_matches('<').to_owned();
        }
        ensure!(Value::from(paged) == all.body, "pages of {limit} are not the list");
    }
    let components = system.get("/api/v1/component_status?active=true").await?;
    ensure!(components.status == 200, "{components:?}");
    // They begin by now and end later.
    let active = system.get("/api/v1/incidents?active=true").await?;
    ensure!(active.status == 200 && ids(&active.body).is_empty(), "{active:?}");
    let listed = system.worker_succeeds(&["incident", "list"]).await?;
    ensure!(listed.lines().count() == 9, "{listed}");
    system.finish().await
}

async fn updates_go_on_beside_times_without_end(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("VPN", &[])]).await?;
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact, system) VALUES
                ('Ever', '-infinity', NULL, 2, true), ('Move', '-infinity', 'infinity', 0, false),
                ('Person', '0044-03-15 BC', NULL, 3, false);
            INSERT INTO incident_component_relation VALUES (1, 1), (2, 2), (3, 3);
            INSERT INTO incident_status (incident_id, \"timestamp\", text, status) VALUES
                (1, 'infinity', 'x', 'SYSTEM'), (3, '-infinity', 'x', 'SYSTEM');",
        )
        .await?;
    for (name, impact, status, id) in
        [("DNS", 2, 200, 1), ("CDN", 3, 200, 2), ("VPN", 3, 200, 3), ("DNS", 3, 201, 1)]
    {
        let answer = system.post(&json!({ "name": name, "impact": impact })).await?;
        ensure!(answer.status == status && answer.body["id"] == id, "{name} {impact}: {answer:?}");
    }
    let updates =
        system.count("SELECT count(*) FROM incident_status WHERE incident_id = 1").await?;
    ensure!(updates == 2, "{updates} updates");
    system.finish_without_replay().await
}

async fn times_are_kept_by_commands_that_are_not_about_them(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact) VALUES
                ('Ever', '-infinity', NULL, 2), ('Move', '4713-11-24 BC', 'infinity', 0);
            INSERT INTO incident_component_relation VALUES (1, 1), (2, 1);",
        )
        .await?;
    for arguments in [
        &["incident", "comment", "1", "--status", "fixing", "A disk"][..],
        &["incident", "change", "1", "--impact", "1"],
        &["incident", "comment", "2", "--status", "in progress", "Going on"],
        &["maintenance", "change", "2", "--title", "Moving"],
        &["incident", "show", "2", "--json"],
    ] {
        system.worker_succeeds(arguments).await?;
    }
    let times: Vec<String> = sqlx::query_scalar(AssertSqlSafe(
        "SELECT concat_ws(' to ', start_date, end_date) FROM incident ORDER BY id".to_owned(),
    ))
    .fetch_all(&system.database)
    .await?;
    ensure!(times == ["-infinity", "4713-11-24 00:00:00 BC to infinity"], "{times:?}");
    system.finish().await
}

async fn a_time_that_the_python_dashboard_cannot_read_is_not_taken(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact) VALUES
                ('Down', '2026-01-01', NULL, 2), ('Move', '2026-01-01', '9999-01-01', 0);",
        )
        .await?;
    let open = ["incident", "open", "--title", "x", "--impact", "1", "--component", "DNS"];
    let schedule = ["maintenance", "schedule", "--title", "x", "--component", "DNS"];
    for time in ["0000-05-01 00:00", "0001-01-01T00:30:00+01:00", "9999-12-31T23:30:00-01:00"] {
        for arguments in [
            [&open[..], &["--start", time]].concat(),
            [&schedule[..], &["--start", time, "--end", "9999-01-01 00:00"]].concat(),
            [&schedule[..], &["--start", "2026-01-01 00:00", "--end", time]].concat(),
            vec!["incident", "close", "1", "--at", time],
            vec!["maintenance", "change", "2", "--start", time],
            vec!["maintenance", "change", "2", "--end", time],
        ] {
            let (done, said) = system.worker_command(&arguments).await?;
            ensure!(!done, "{arguments:?}: {said}");
            ensure!(said.contains("the year must be one from 0001 to 9999"), "{said}");
        }
    }
    // Those at the edge are shown, with all pages.
    let first = [&open[..], &["--start", "0001-01-01 00:00"]].concat();
    let said = system.worker_succeeds(&first).await?;
    ensure!(said.contains("from:       0001-01-01 00:00 UTC"), "{said}");
    let page = system.get("/api/v1/incidents?limit=2").await?;
    let (next, _) = page.header("link").split_once('>').context("no next page")?;
    let page = system.get(next.trim_start_matches('<')).await?;
    ensure!(page.status == 200 && page.body[0]["start_date"] == "0001-01-01 00:00", "{page:?}");
    system.finish().await
}
