//! One gateway with a wrong clock, or one that is set while it runs: that shows in its readiness only.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use harness::{
    CLAIM, COMPONENT_STATUS, Clock, Fixture, NOW, SECRET, System, answer, eventually,
    status_update, tests, token,
};
use jsonwebtoken::get_current_timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{DAY, HOUR, MINUTE, serves};

tests!(
    updates_are_stamped_by_the_databases_clock,
    a_clock_that_is_set_while_the_gateway_runs_changes_nothing,
    time_goes_on_while_the_database_is_away,
    tokens_expire_by_the_databases_clock,
);

/// A worker, and a gateway with this clock.
async fn start(fixture: &Arc<Fixture>, clock: &Clock) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway_unready(&clock.variables()?).await?;
    serves(&system, 0).await?;
    system.components(&[("DNS", &[])]).await?;
    Ok(system)
}

async fn readiness(system: &System) -> Result<(u16, Value)> {
    let answer = answer(system.request_to(0, Method::GET, "/readyz")).await?;
    Ok((answer.status, answer.body))
}

/// Waits until the gateway is ready and has this reason for being degraded, or none.
async fn is_ready(system: &System, reason: &str) -> Result<()> {
    eventually(&format!("the gateway is ready, with the reason {reason:?}"), async || {
        let (status, body) = readiness(system).await?;
        ensure!(status == 200, "{body}");
        let reasons = body["reasons"].as_array().context("no reasons")?;
        Ok(match reasons.as_slice() {
            [] => reason.is_empty() && body["status"] == "ready",
            [one] => {
                let named = one.as_str().is_some_and(|one| one.starts_with(reason));
                !reason.is_empty() && named && body["status"] == "degraded"
            }
            _ => false,
        })
    })
    .await
}

/// Posts an update, and checks that it is applied and stamped by the database's clock.
async fn is_applied(system: &System) -> Result<()> {
    let sent = system.texts(&format!("SELECT {NOW}::text")).await?.concat();
    let answer = system.post(&json!({ "name": "DNS", "impact": 1 })).await?;
    ensure!([200, 201].contains(&answer.status), "{answer:?}");
    let id: Uuid = answer.header("update-id").parse()?;
    is_stamped_right(system, id, &sent).await
}

/// The id and `received_at` are at most ten seconds older than when the update was sent by the database's clock,
/// and not of its future.
async fn is_stamped_right(system: &System, id: Uuid, sent: &str) -> Result<()> {
    let right = format!(
        "SELECT count(*) FROM sdb_inbox,
            (SELECT timestamp '{sent}' - interval '10 s' AS earliest) AS sent
        WHERE id = '{id}' AND received_at BETWEEN earliest AND decided_at
            AND id BETWEEN sdb_first_id(earliest) AND sdb_first_id({NOW} + interval '1 ms')"
    );
    ensure!(system.count(&right).await? == 1, "{id} is not stamped by the database's clock");
    let receipt = system.get(&format!("/api/v1/updates/{id}")).await?;
    ensure!(receipt.status == 200 && receipt.body["state"] == "done", "{receipt:?}");
    Ok(())
}

async fn updates_are_stamped_by_the_databases_clock(fixture: Arc<Fixture>) -> Result<()> {
    let clock = Clock::ahead(&fixture.folder, 21 * DAY).await?;
    let mut system = start(&fixture, &clock).await?;
    for (seconds, reason) in [
        (21 * DAY, "the clock of this machine is 21 days ahead of PostgreSQL's"),
        (-21 * DAY, "the clock of this machine is 21 days behind PostgreSQL's"),
        (3 * HOUR, "the clock of this machine is 3 hours ahead of PostgreSQL's"),
        (-3 * HOUR, "the clock of this machine is 3 hours behind PostgreSQL's"),
        (10 * MINUTE, "the clock of this machine is 10 minutes ahead of PostgreSQL's"),
        (2 * MINUTE, ""),
        (-2 * MINUTE, ""),
        (0, ""),
    ] {
        // From the start, not only set later.
        clock.set(seconds)?;
        system.gateways.clear();
        system.addresses.clear();
        system.start_gateway_unready(&clock.variables()?).await?;
        serves(&system, 0).await?;
        is_ready(&system, reason).await.with_context(|| format!("{seconds} s"))?;
        is_applied(&system).await.with_context(|| format!("{seconds} s"))?;
        let metrics = answer(system.request_to(0, Method::GET, "/metrics")).await?.body;
        let shown =
            metrics.as_str().unwrap_or_default().lines().find_map(|line| {
                line.strip_prefix("sdb_clock_ahead_seconds ")?.parse::<f64>().ok()
            });
        let shown = shown.context("the metric is not there")?;
        ensure!((shown - seconds as f64).abs() < 5.0, "{shown} instead of {seconds}");
        let log = system.gateways[0].log()?;
        ensure!(log.contains("is 21 days") == (seconds.abs() == 21 * DAY), "{log}");
    }
    system.finish().await
}

async fn a_clock_that_is_set_while_the_gateway_runs_changes_nothing(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let clock = Clock::ahead(&fixture.folder, 0).await?;
    let system = start(&fixture, &clock).await?;
    is_ready(&system, "").await?;
    is_applied(&system).await?;
    // Back again, too: ids must not stay where the clock once was.
    for (seconds, reason) in [
        (21 * DAY, "the clock of this machine is 21 days ahead of"),
        (0, ""),
        (-21 * DAY, "the clock of this machine is 21 days behind"),
        (2 * MINUTE, ""),
    ] {
        clock.set(seconds)?;
        for _ in 0..5 {
            is_applied(&system).await.with_context(|| format!("{seconds} s"))?;
        }
        is_ready(&system, reason).await.with_context(|| format!("{seconds} s"))?;
        is_applied(&system).await.with_context(|| format!("{seconds} s"))?;
    }
    system.finish().await
}

async fn time_goes_on_while_the_database_is_away(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let clock = Clock::ahead(&own.folder, 21 * DAY).await?;
    let system = start(&own, &clock).await?;
    is_applied(&system).await?;
    own.postgres().stop();
    let mut ids: Vec<Uuid> = Vec::new();
    for seconds in [21 * DAY, -21 * DAY, 0] {
        clock.set(seconds)?;
        let request = system.update(&json!({ "name": "DNS", "impact": 2 }));
        let accepted = answer(request.header("Prefer", "respond-async")).await?;
        ensure!(accepted.status == 202, "{accepted:?}");
        ids.push(accepted.header("update-id").parse()?);
    }
    own.postgres().start()?;
    for id in ids {
        eventually("the update is applied", async || {
            let receipt = system.get(&format!("/api/v1/updates/{id}")).await?;
            Ok(receipt.status == 200 && receipt.body["state"] != "pending")
        })
        .await?;
        let found = format!(
            "SELECT count(*) FROM sdb_inbox WHERE id = '{id}' AND received_at <= decided_at
                AND received_at > decided_at - interval '1 min'"
        );
        ensure!(system.count(&found).await? == 1, "{id} is not stamped by the database's clock");
    }
    system.finish().await
}

async fn tokens_expire_by_the_databases_clock(fixture: Arc<Fixture>) -> Result<()> {
    let clock = Clock::ahead(&fixture.folder, 0).await?;
    let system = start(&fixture, &clock).await?;
    for seconds in [21 * DAY, -21 * DAY, 3 * HOUR, -3 * HOUR, 2 * MINUTE, -2 * MINUTE, 0] {
        clock.set(seconds)?;
        let now = get_current_timestamp();
        for (claim, time, is_valid) in [
            ("exp", now + 60, true),
            ("exp", now - 60, false),
            ("nbf", now - 60, true),
            ("nbf", now + 60, false),
        ] {
            let token = token(SECRET, &json!({ CLAIM: "dummy", claim: time }));
            let request = system.request_to(0, Method::POST, COMPONENT_STATUS).bearer_auth(token);
            let answer = answer(request.json(&status_update("DNS", 1))).await?;
            let is_right = if is_valid { answer.status < 300 } else { answer.status == 401 };
            ensure!(is_right, "{seconds} s, {claim} {time}, now {now}: {answer:?}");
        }
    }
    system.finish().await
}
