//! What bounds alerts: the rate of a token, places in flight, and the memory for bodies.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{ALERTS, BOTH, WEBHOOK, incidents, metrics, of, send, send_to};
use harness::{Fixture, System, answer, eventually, proxy::Proxy, tests};

tests!(
    a_request_with_more_alerts_than_the_rate_is_taken_and_the_next_one_waits,
    a_request_with_more_alerts_than_places_is_taken,
    a_request_without_any_place_is_refused,
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
    for (path, dry_run) in BOTH.into_iter().zip(["", "?dry_run=true"]) {
        let path = format!("{path}{dry_run}");
        eventually("the token may send again", async || {
            let taken = answer(send_to(&system, 1, &path, &alerts(12))).await?;
            ensure!([200, 503].contains(&taken.status), "{taken:?}");
            Ok(taken.status == 200)
        })
        .await?;
        // Alertmanager sends again after 503, and not after 429.
        let refused = answer(send_to(&system, 1, &path, &alerts(1))).await?;
        ensure!(refused.status == 503 && refused.header("retry-after") == "1", "{refused:?}");
        let message = refused.body["message"].as_str().context("no message")?;
        ensure!(message.contains("sends more updates than it may"), "{message}");
    }
    let refused = metrics(&system, 1).await?;
    ensure!(refused.sum("sdb_updates_refused_total", &["reason=\"rate_limit\""]) >= 2.0);
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 12);
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

async fn a_request_without_any_place_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    let uri = proxy.uri().to_owned();
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_IN_FLIGHT", "1"), ("SDB_AMQP_URI", &uri)]).await?;
    system.components(&[("DNS", &[])]).await?;
    // The only place is taken by an update that is not confirmed for a while.
    proxy.delay(Duration::from_millis(1_000));
    let first = system.update(&json!({ "name": "DNS", "impact": 1 })).header("Prefer", "wait=20");
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
    proxy.delay(Duration::ZERO);
    ensure!(first.await??.status == 201);
    eventually("there is a place again", async || {
        Ok(answer(send(&system, WEBHOOK, &alerts(2))).await?.status == 200)
    })
    .await?;
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
    let requests = [ALERTS, WEBHOOK].map(|path| answer(send(&system, path, &alerts)));
    for taken in join_all(requests).await {
        let taken = taken?;
        ensure!(taken.status == 200, "{taken:?}");
    }
    metrics(&system, 0).await?.is("sdb_alerts_total", &["result=\"accepted\""], 10_000)?;
    let peak = system.gateways[0].peak_memory()?;
    ensure!(peak < 200 * 1024 * 1024, "{peak} bytes");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 10_000);
    ensure!(incidents(&system).await? == ["0: DNS"]);
    system.finish().await
}
