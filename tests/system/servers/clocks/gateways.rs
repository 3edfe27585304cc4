//! Several gateways whose clocks differ.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use harness::{
    Fixture, System, answer,
    burst::{Burst, took_effect_once},
    same, status_update, tests,
};
use reqwest::Method;
use serde_json::Value;

use super::{DAY, HOUR, MINUTE, are_stamped_right, clocks, serves};

tests!(every_gateway_has_the_receipts_and_lists_of_all, clocks_that_jump_in_a_burst_change_nothing,);

/// A gateway for each clock. One whose clock is far off is ready, and degraded.
async fn start_gateways(system: &mut System, clocks: &[harness::Clock]) -> Result<()> {
    for clock in clocks {
        system.start_gateway_unready(&clock.variables()?).await?;
    }
    for gateway in 0..clocks.len() {
        serves(system, gateway).await?;
    }
    Ok(())
}

/// What every gateway answers to this path.
async fn of_all(system: &System, path: &str) -> Result<Value> {
    let mut first = None;
    for gateway in 0..system.addresses.len() {
        let request = system.request_to(gateway, Method::GET, path).bearer_auth(&system.token);
        let found = answer(request).await?;
        ensure!(found.status == 200, "gateway {gateway}, {path}: {found:?}");
        same(&found.body, first.get_or_insert_with(|| found.body.clone()))
            .with_context(|| format!("gateway {gateway}, {path}"))?;
    }
    first.context("no gateway")
}

async fn every_gateway_has_the_receipts_and_lists_of_all(fixture: Arc<Fixture>) -> Result<()> {
    let offsets = [0, 3 * HOUR, -3 * HOUR, 21 * DAY, -21 * DAY, 2 * MINUTE];
    let clocks = clocks(&fixture, &offsets).await?;
    let mut system = System::prepared(&fixture).await?;
    start_gateways(&mut system, &clocks).await?;
    system.components(&[("DNS", &[]), ("VPN", &[])]).await?;
    // Of two maintenances one is running, by the database's clock.
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact, system)
            SELECT text, now + start, now + start + interval '2 h', 0, false
            FROM (VALUES ('runs', interval '-1 h'), ('later', interval '1 h')) AS each (text, start),
                (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) AS clock;
            INSERT INTO incident_component_relation (incident_id, component_id)
            SELECT incident.id, component.id FROM incident, component WHERE name = 'VPN'",
        )
        .await?;
    // Without a worker, all of them wait.
    let mut ids = Vec::new();
    for gateway in 0..offsets.len() {
        let name = if gateway % 2 == 0 { "DNS" } else { "VPN" };
        let impact = 1 + u8::try_from(gateway / 2)?;
        ids.push(system.post_async(gateway, &status_update(name, impact)).await?);
    }
    for id in &ids {
        let receipt = of_all(&system, &format!("/api/v1/updates/{id}")).await?;
        ensure!(receipt["state"] == "pending", "{receipt}");
    }
    system.start_worker(&[]).await?;
    for (number, id) in ids.iter().enumerate() {
        system.applied(id).await?;
        let receipt = of_all(&system, &format!("/api/v1/updates/{id}")).await?;
        let is_covered = receipt["outcome"] == "suppressed";
        ensure!(receipt["state"] == "done" && is_covered == (number % 2 == 1), "{receipt}");
    }
    are_stamped_right(&system).await?;
    for path in ["/api/v1/incidents", "/api/v1/component_status"] {
        of_all(&system, path).await?;
        let active = of_all(&system, &format!("{path}?active=true")).await?.to_string();
        ensure!(active.contains("\"runs\"") && !active.contains("\"later\""), "{active}");
    }
    system.finish().await
}

async fn clocks_that_jump_in_a_burst_change_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let clocks = clocks(&fixture, &[0, 21 * DAY, -3 * HOUR]).await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    start_gateways(&mut system, &clocks).await?;
    let burst = Burst::start(&system).await?;
    for offsets in [
        [21 * DAY, -21 * DAY, 3 * HOUR],
        [-21 * DAY, 0, -2 * MINUTE],
        [2 * MINUTE, 21 * DAY, -21 * DAY],
    ] {
        for (clock, seconds) in clocks.iter().zip(offsets) {
            clock.set(seconds)?;
        }
        burst.is_decided().await.with_context(|| format!("{offsets:?}"))?;
    }
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    are_stamped_right(&system).await?;
    system.finish().await
}
