//! The order of decisions: by which clock, and among incidents that cover a component.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;

use super::with_components;
use crate::workers::{decided, update};
use harness::{Fixture, NOW, tests};

tests!(
    of_several_that_cover_a_component_the_lowest_id_is_named,
    a_clock_that_was_an_hour_ahead_leads_no_later_decision,
    a_clock_that_went_back_a_little_keeps_decisions_in_order,
);

async fn of_several_that_cover_a_component_the_lowest_id_is_named(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let hour_ago = format!("{NOW} - interval '1 hour'");
    let in_an_hour = format!("{NOW} + interval '1 hour'");
    // Ids, ends and components: with an end before those without one, and the other way round.
    for (id, impact, end, component) in [
        (5, 0, in_an_hour.as_str(), 1),
        (10, 0, "NULL", 1),
        (6, 0, "NULL", 2),
        (11, 0, &in_an_hour, 2),
        (8, 3, "NULL", 3),
        (7, 2, "NULL", 3),
        (12, 0, "NULL", 4),
        (9, 0, &in_an_hour, 4),
        (4, 3, "NULL", 4),
    ] {
        system
            .sql(&format!(
                "INSERT INTO incident (id, text, start_date, end_date, impact, system)
                VALUES ({id}, 'No. {id}', {hour_ago}, {end}, {impact}, false);
                INSERT INTO incident_component_relation VALUES ({id}, {component});"
            ))
            .await?;
    }
    for (name, impact, expected, reason) in [
        ("DNS", 3, 5, "in_running_maintenance"),
        ("CDN", 3, 6, "in_running_maintenance"),
        ("Mail", 1, 7, "covered_by_manual_incident"),
        ("Mail", 3, 8, "covered_by_manual_incident"),
        // Rule 1 comes before rule 2.
        ("VPN", 1, 9, "in_running_maintenance"),
    ] {
        let answer = system.post(&update(name, impact)).await?;
        ensure!(answer.status == 200 && answer.body["id"] == expected, "{name}: {answer:?}");
        let receipt = system.receipt(answer.header("update-id")).await?;
        ensure!(receipt["reason"] == reason, "{receipt}");
        ensure!(receipt["incident"]["id"] == expected, "{receipt}");
    }
    system.finish().await
}

async fn a_clock_that_was_an_hour_ahead_leads_no_later_decision(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    // As if that had been decided while the clock was wrong.
    system
        .sql(&format!(
            "UPDATE sdb_scope SET decided_at = {NOW} + interval '1 hour';
            UPDATE incident SET start_date = {NOW} + interval '1 hour' WHERE id = {minor};"
        ))
        .await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    let active = system.get("/api/v1/incidents?active=true").await?;
    let ids: Vec<&Value> =
        active.body.as_array().context("no list")?.iter().map(|i| &i["id"]).collect();
    ensure!(ids == [major], "{active:?}");
    ensure!(system.workers[0].log()?.contains("ahead of the database's clock"));
    // The order is the position, which goes on.
    let out_of_order = "SELECT count(*) FROM sdb_inbox WHERE position NOT IN (1, 2)";
    ensure!(system.count(out_of_order).await? == 0);
    // What began in the future ends no earlier.
    ensure!(decided(&system, "DNS", 2, 201).await? == major);
    let reversed = "SELECT count(*) FROM incident WHERE end_date < start_date";
    ensure!(system.count(reversed).await? == 0, "an incident ends before it begins");

    // So it is for what an operator's command decides.
    system.sql(&format!("UPDATE sdb_scope SET decided_at = {NOW} + interval '1 hour'")).await?;
    let (closed, said) = system.worker_command(&["incident", "close", &major.to_string()]).await?;
    ensure!(closed, "{said}");
    let late = format!("SELECT count(*) FROM incident WHERE id = {major} AND end_date > {NOW}");
    ensure!(system.count(&late).await? == 0, "it ends in the future");
    system.finish().await
}

async fn a_clock_that_went_back_a_little_keeps_decisions_in_order(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    system.sql(&format!("UPDATE sdb_scope SET decided_at = {NOW} + interval '5 seconds'")).await?;
    let began = Instant::now();
    decided(&system, "DNS", 1, 201).await?;
    decided(&system, "DNS", 1, 200).await?;
    let ahead = format!("SELECT count(*) FROM sdb_inbox WHERE decided_at > {NOW}");
    let ahead = system.count(&ahead).await?;
    // On a slow machine the clock may have come up with them.
    if began.elapsed() < Duration::from_secs(4) {
        ensure!(ahead == 2, "the decisions are not after the newest one");
    }
    let steps = "SELECT count(*) FROM (SELECT decided_at - lag(decided_at) OVER (ORDER BY position)
        AS step FROM sdb_inbox) AS steps WHERE step <= interval '0'";
    ensure!(system.count(steps).await? == 0, "time stands still");
    ensure!(!system.workers[0].log()?.contains("ahead of the database's clock"));
    system.finish().await
}
