//! Transactions of others: what they lock, roll back or write into the future.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{begin, run, shown, updates_wait, with_components};
use crate::workers::{accepted, decided, update};
use harness::{Fixture, NOW, replay, tests};

tests!(
    updates_sort_after_an_operators_update_from_the_future,
    a_lock_on_an_incident_delays_updates_and_its_edit_counts,
    an_edit_that_is_rolled_back_does_not_count,
    foreign_writers_in_another_order_meet_no_deadlock,
);

async fn updates_sort_after_an_operators_update_from_the_future(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "DNS", 1, 201).await?;
    system
        .sql(&format!(
            "INSERT INTO incident_status (incident_id, timestamp, text, status)
            VALUES ({incident}, {NOW} + interval '3 hours', 'Ahead', 'analyzing')"
        ))
        .await?;
    decided(&system, "DNS", 2, 201).await?;
    decided(&system, "CDN", 2, 201).await?;
    let last = system.post(&update("Mail", 2)).await?;
    let texts = json!([
        "Mail () added to DNS reports 1",
        "CDN () added to DNS reports 1",
        "impact changed from minor to major",
        "Ahead"
    ]);
    let of = |incident: &Value| -> Value {
        let updates = incident["updates"].as_array().map_or(&[][..], Vec::as_slice);
        updates.iter().map(|update| update["text"].clone()).collect()
    };
    ensure!(last.status == 201 && of(&last.body) == texts, "{last:?}");
    let listed = shown(&system, incident).await?;
    ensure!(of(&listed) == texts, "{listed}");
    // As the Python dashboard sorts: by the timestamp alone.
    let not_later = system
        .count(
            "SELECT count(*) FROM (SELECT timestamp - lag(timestamp) OVER (ORDER BY id) AS step
                FROM incident_status) AS steps WHERE step <= interval '0'",
        )
        .await?;
    ensure!(not_later == 0, "{not_later} updates are not later than the one before");
    system.finish().await
}

async fn a_lock_on_an_incident_delays_updates_and_its_edit_counts(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "DNS", 1, 201).await?;
    let edit = begin(
        &system,
        &format!("UPDATE incident SET system = false, impact = 2 WHERE id = {incident}"),
    )
    .await?;
    let late = system.post_with_default_wait(&update("DNS", 2)).await?;
    ensure!(late.status == 202 && late.body["state"] == "pending", "{late:?}");
    let other = accepted(&system, "CDN", 1).await?;
    // It is tried again and again.
    sleep(Duration::from_secs(6)).await;
    ensure!(system.receipt(late.header("update-id")).await?["state"] == "pending");
    edit.commit().await?;

    let receipt = system.applied(late.header("update-id")).await?;
    ensure!(receipt["outcome"] == "unchanged", "{receipt}");
    ensure!(receipt["reason"] == "covered_by_manual_incident", "{receipt}");
    ensure!(receipt["incident"]["id"] == incident, "{receipt}");
    let receipt = system.applied(&other).await?;
    ensure!(receipt["outcome"] == "opened", "{receipt}");
    system.finish().await
}

async fn an_edit_that_is_rolled_back_does_not_count(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "DNS", 1, 201).await?;
    let edit = begin(
        &system,
        &format!(
            "UPDATE incident SET end_date = {NOW} WHERE id = {incident};
            INSERT INTO incident_status (incident_id, timestamp, text, status)
            VALUES ({incident}, {NOW}, 'Never mind', 'resolved');"
        ),
    )
    .await?;
    let receipt = accepted(&system, "DNS", 2).await?;
    updates_wait(&system).await?;
    let before = system.get("/api/v1/incidents").await?;
    ensure!(before.body[0]["end_date"].is_null(), "{before:?}");
    edit.rollback().await?;
    let receipt = system.applied(&receipt).await?;
    ensure!(receipt["outcome"] == "raised" && receipt["incident"]["id"] == incident, "{receipt}");
    ensure!(!system.get("/api/v1/incidents").await?.body.to_string().contains("Never mind"));
    replay::agrees(&system.database).await?;
    system.finish().await
}

/// Foreign transactions that take rows in another order than the worker: it waits for no incident, and
/// only shortly for a component.
async fn foreign_writers_in_another_order_meet_no_deadlock(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let low = decided(&system, "DNS", 1, 201).await?;
    let high = decided(&system, "CDN", 2, 201).await?;
    ensure!(low < high);
    for round in 0..4 {
        let mut foreign = begin(
            &system,
            &format!(
                "UPDATE incident SET text = 'round {round}' WHERE id = {high};
                SELECT FROM component WHERE id = 3 FOR UPDATE;"
            ),
        )
        .await?;
        let mut receipts = Vec::new();
        for (name, impact) in [("Mail", 1), ("DNS", 1), ("CDN", 2), ("Mail", 2), ("DNS", 3)] {
            receipts.push(accepted(&system, name, impact).await?);
        }
        // While the worker tries to have the lower incident and the component.
        sleep(Duration::from_millis(300)).await;
        run(&mut foreign, &format!("UPDATE incident SET text = 'round {round}' WHERE id = {low}"))
            .await?;
        foreign.commit().await?;
        for receipt in receipts {
            system.applied(&receipt).await?;
        }
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    ensure!(system.count(deadlocks).await? == 0, "a deadlock");
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 2 + 4 * 5);
    let edited = "SELECT count(*) FROM incident WHERE text = 'round 3'";
    ensure!(system.count(edited).await? == 2, "an edit is gone");
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}
