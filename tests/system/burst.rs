//! A storm: many clients, many components, every update exactly once.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use harness::{Fixture, System, replay, tests};

tests!(ten_thousand_updates_take_effect_exactly_once, a_burst_survives_the_death_of_a_worker,);

const CLIENTS: usize = 64;

/// Component `number` of 100: 50 names in two regions.
fn name_and_region(number: usize) -> (String, &'static str) {
    (format!("Service {}", number / 2), if number.is_multiple_of(2) { "R1" } else { "R2" })
}

async fn hundred_components(system: &System) -> Result<()> {
    system
        .sql(
            "INSERT INTO component (name) SELECT 'Service ' || n / 2 FROM generate_series(0, 99) n;
            INSERT INTO component_attribute (component_id, name, value)
            SELECT id, 'region', CASE id % 2 WHEN 1 THEN 'R1' ELSE 'R2' END FROM component;",
        )
        .await?;
    system.catalogue_seen().await
}

/// The `number`th update of a burst: components and impacts vary without a pattern that repeats
/// soon, and outages are rare enough to leave something to raise.
fn update(number: usize) -> Value {
    let mixed = number.wrapping_mul(2_654_435_761) >> 7;
    let (name, region) = name_and_region(mixed % 100);
    let impact = match mixed / 100 % 50 {
        0 => 3,
        1..=9 => 2,
        _ => 1,
    };
    json!({
        "name": name,
        "impact": impact,
        "attributes": [{ "name": "region", "value": region }],
    })
}

/// Posts updates `0..count` from many clients, in turn to all gateways; returns their ids.
async fn burst(system: &System, count: usize) -> Result<Vec<String>> {
    let clients = (0..CLIENTS).map(async |client| -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for number in (client..count).step_by(CLIENTS) {
            let gateway = number % system.gateways.len();
            let response = system.update_to(gateway, &update(number)).send().await?;
            let status = response.status();
            ensure!(status.is_success(), "{status}: {}", response.text().await?);
            let id = response.headers().get("update-id").context("no Update-Id")?;
            ids.push(id.to_str()?.to_owned());
            response.bytes().await?;
        }
        Ok(ids)
    });
    Ok(try_join_all(clients).await?.into_iter().flatten().collect())
}

/// Every id that was answered is in the inbox once, and nothing else is.
async fn inbox_has_exactly(system: &System, ids: Vec<String>) -> Result<()> {
    let answered = ids.len();
    let ids: BTreeSet<String> = ids.into_iter().collect();
    ensure!(ids.len() == answered, "ids were given twice");
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM sdb_inbox").fetch_all(&system.database).await?;
    ensure!(stored.len() == answered, "{} rows for {answered} updates", stored.len());
    ensure!(stored.into_iter().collect::<BTreeSet<_>>() == ids, "the inbox has other updates");
    Ok(())
}

async fn ten_thousand_updates_take_effect_exactly_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    hundred_components(&system).await?;
    let ids = burst(&system, 10_000).await?;
    system.drained().await?;
    inbox_has_exactly(&system, ids).await?;
    replay::agrees(&system.database).await?;
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}

async fn a_burst_survives_the_death_of_a_worker(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    hundred_components(&system).await?;
    let killed = async {
        // In the middle: some are decided, many are not.
        harness::eventually("some updates are decided", async || {
            Ok(system.count("SELECT count(*) FROM sdb_inbox").await? > 300)
        })
        .await?;
        system.workers[0].signal(Signal::SIGKILL)
    };
    let (ids, killed) = tokio::join!(burst(&system, 3_000), killed);
    killed?;
    system.drained().await?;
    inbox_has_exactly(&system, ids?).await?;
    replay::agrees(&system.database).await?;
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}
