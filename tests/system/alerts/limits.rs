//! What bounds alerts: the rate of a token, places in flight, and the memory for bodies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ALERTS, BOTH, WEBHOOK, incidents, metrics, of, send, send_to};
use harness::{Fixture, System, answer, eventually, eventually_within, tests};

tests!(
    a_request_with_more_alerts_than_the_rate_is_taken_and_the_next_one_waits,
    alerts_beyond_the_rate_are_refused,
    a_request_with_more_alerts_than_places_is_taken,
    a_request_without_any_place_waits_for_one,
    a_storm_of_alerts_is_taken_in_bounded_memory,
);

fn alerts(count: usize) -> Vec<Value> {
    (0..count).map(|n| of("DNS", &n.to_string())).collect()
}

async fn a_request_with_more_alerts_than_the_rate_is_taken_and_the_next_one_waits(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[("SDB_RATE_LIMIT", "5")]).await?;
    system.components(&[("DNS", &[])]).await?;
    // As a Prometheus sends many alerts: some at a time, without a pause.
    for (path, count) in [(ALERTS, 12), (WEBHOOK, 9), (ALERTS, 1)] {
        let taken = answer(send_to(&system, 1, path, &alerts(count))).await?;
        ensure!(taken.status == 200, "{taken:?}");
    }
    metrics(&system, 1).await?.is("sdb_updates_refused_total", &[], 0)?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 22);
    system.finish().await
}

/// The rate is used up for longer than a request waits.
async fn alerts_beyond_the_rate_are_refused(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[("SDB_RATE_LIMIT", "5")]).await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(answer(send_to(&system, 1, ALERTS, &alerts(1_000))).await?.status == 200);
    for path in BOTH {
        // Alertmanager sends again at once after 503, and not after 429.
        let refused = answer(send_to(&system, 1, path, &alerts(2))).await?;
        ensure!(refused.status == 503 && refused.header("retry-after") == "1", "{refused:?}");
        let message = refused.body["message"].as_str().context("no message")?;
        ensure!(message.contains("sends more updates than it may"), "{message}");
        // A dry run sends nothing, and costs nothing.
        let path = format!("{path}?dry_run=true");
        let planned = answer(send_to(&system, 1, &path, &alerts(3))).await?;
        ensure!(planned.status == 200, "{planned:?}");
    }
    let refused = metrics(&system, 1).await?;
    refused.is("sdb_updates_refused_total", &["reason=\"rate_limit\""], 4)?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1_000);
    system.finish().await
}

async fn a_request_with_more_alerts_than_places_is_taken(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[("SDB_MAX_IN_FLIGHT", "3")]).await?;
    system.components(&[("DNS", &[])]).await?;
    for path in BOTH {
        let taken = answer(send_to(&system, 1, path, &alerts(20))).await?;
        ensure!(taken.status == 200, "{taken:?}");
    }
    metrics(&system, 1).await?.is("sdb_updates_refused_total", &[], 0)?;
    system.drained().await?;
    // In their order, across the portions too.
    ensure!(incidents(&system).await? == ["0: DNS"]);
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 40);
    system.finish().await
}

async fn a_request_without_any_place_waits_for_one(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_IN_FLIGHT", "1")]).await?;
    system.components(&[("DNS", &[])]).await?;
    // Without what every decision needs there is no outcome, and the only place is taken for so long.
    let scope = system.hold_scope().await?;
    let first = system.update(&json!({ "name": "DNS", "impact": 1 })).header("Prefer", "wait=30");
    let first = tokio::spawn(answer(first));
    eventually("it is in flight", async || {
        Ok(metrics(&system, 0).await?.sum("sdb_updates_in_flight", &[]) == 1.0)
    })
    .await?;
    let refused = answer(send(&system, WEBHOOK, &alerts(2))).await?;
    let message = refused.body["message"].as_str().context("no message")?;
    ensure!(refused.status == 503 && message.starts_with("2 of 2 alerts"), "{refused:?}");
    ensure!(message.contains("Too many updates are in flight"), "{message}");
    // A dry run needs none.
    let path = format!("{WEBHOOK}?dry_run=true");
    let planned = answer(send(&system, &path, &alerts(2))).await?;
    ensure!(planned.status == 200, "{planned:?}");
    // One that becomes free in time is enough. What is no alert is counted before the others wait.
    let with_bad = [alerts(2), vec![json!({})]].concat();
    let waiting = tokio::spawn(answer(send(&system, WEBHOOK, &with_bad)));
    eventually("the request waits for a place", async || {
        Ok(metrics(&system, 0).await?.sum("sdb_alerts_unmapped_total", &[]) == 1.0)
    })
    .await?;
    system.waits_for_a_lock().await?;
    scope.rollback().await?;
    ensure!(first.await??.status == 201);
    let taken = waiting.await??;
    ensure!(taken.status == 200, "{taken:?}");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 3);
    system.finish().await
}

async fn a_storm_of_alerts_is_taken_in_bounded_memory(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    // Alerts as they are in reality, and more in a request than are in flight at once.
    let alerts: Vec<Value> = (0..5_000)
        .map(|n| {
            let mut alert = of("DNS", &n.to_string());
            alert["annotations"] = json!({ "description": "x".repeat(500) });
            alert
        })
        .collect();
    // A slow machine does not take all of them in the time of one request: they are sent again, as by their senders.
    let limit = Duration::from_secs(90);
    let sent_again = AtomicBool::new(false);
    let all_are_taken = async |path: &str| {
        eventually_within(limit, "all are taken", async || {
            let taken = answer(send(&system, path, &alerts)).await?;
            ensure!([200, 503].contains(&taken.status), "{taken:?}");
            let is_taken = taken.status == 200;
            sent_again.fetch_or(!is_taken, Ordering::Relaxed);
            Ok(is_taken)
        })
        .await
    };
    tokio::try_join!(all_are_taken(ALERTS), all_are_taken(WEBHOOK))?;
    let accepted = metrics(&system, 0).await?.sum("sdb_alerts_total", &["result=\"accepted\""]);
    let may_be_more = sent_again.into_inner();
    ensure!(accepted == 10_000.0 || (may_be_more && accepted > 10_000.0), "{accepted}");
    let peak = system.gateways[0].peak_memory()?;
    ensure!(peak < 200 * 1024 * 1024, "{peak} bytes");
    eventually_within(limit, "all are applied", async || system.is_drained().await).await?;
    let applied = system.count("SELECT count(*) FROM sdb_inbox").await?;
    ensure!(applied == 10_000 || (may_be_more && applied > 10_000), "{applied}");
    ensure!(incidents(&system).await? == ["0: DNS"]);
    system.finish().await
}
