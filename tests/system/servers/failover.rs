//! The primary of PostgreSQL is lost, and its standby is promoted: the programs follow it by themselves, and
//! never use the old primary again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use deploy::servers::Postgres;
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use harness::{Fixture, Pair, Replication, System, answer, burst::Burst, eventually, tests};

use crate::failures::{LISTS, is_degraded, lists_go_on, start, survived};

tests!(
    a_killed_primary_is_replaced_by_its_standby,
    a_stalled_primary_that_goes_on_is_not_used_again,
    what_an_asynchronous_standby_lacks_is_not_shown,
);

/// Time from the promotion until lists are shown.
const PROMISED: Duration = Duration::from_secs(10);

/// Every gateway shows its lists again, in the time that is promised.
async fn lists_come_back(system: &System) -> Result<()> {
    let promoted = Instant::now();
    for gateway in 0..system.gateways.len() {
        eventually("the lists are shown", async || {
            let list = answer(system.request_to(gateway, Method::GET, LISTS[0])).await?;
            ensure!(list.status == 200 || list.status == 503, "{list:?}");
            Ok(list.status == 200)
        })
        .await?;
    }
    let took = promoted.elapsed();
    eprintln!("lists are shown {took:?} after the promotion");
    ensure!(took < PROMISED, "it took {took:?}");
    lists_go_on(system).await
}

/// The newest decision that a server has.
fn position(postgres: &Postgres, system: &System) -> Result<String> {
    postgres.psql(&system.vhost, "SELECT position FROM sdb_scope")
}

/// The first primary runs again beside the new one, and takes writes: it gets none, and keeps no session but
/// one of each process, by which that is seen.
async fn the_old_primary_is_not_used(pair: &Pair, system: &System, burst: &Burst) -> Result<()> {
    let old = pair.primary();
    let fault = format!("PostgreSQL at 127.0.0.1:{} is not used: it is an old primary", old.port());
    for gateway in 0..system.gateways.len() {
        is_degraded(system, gateway, &fault).await?;
    }
    // It would accept them.
    old.wait_for_standbys("")?;
    let before = position(old, system)?;
    let sessions = format!(
        "SELECT application_name, state, wait_event, left(query, 60), now() - state_change
        FROM pg_stat_activity
        WHERE datname = '{}' AND application_name IN ('gateway', 'worker')",
        system.vhost
    );
    let processes = system.gateways.len() + system.workers.len();
    let mut left = String::new();
    let closed = eventually("the sessions with the old primary are closed", async || {
        left = old.psql(&system.vhost, &sessions)?;
        Ok(left.lines().filter(|line| line.contains("idle")).count() <= processes)
    });
    closed.await.with_context(|| left.clone())?;
    burst.is_decided().await?;
    lists_go_on(system).await?;
    let after = position(old, system)?;
    ensure!(before == after, "the old primary has {after} instead of {before}");
    ensure!(position(&pair.standby, system)? != before, "nothing was decided by the new primary");
    let says = "it is an old primary: its timeline is 1, and 2 was seen";
    for worker in &system.workers {
        eventually("the worker says so", async || Ok(worker.log()?.contains(says))).await?;
    }
    Ok(())
}

/// The old primary becomes the standby of the new one.
fn rejoins(pair: &Pair) -> Result<()> {
    pair.primary().stop();
    pair.primary().follow(&pair.standby, "sdb_a")
}

async fn a_killed_primary_is_replaced_by_its_standby(fixture: Arc<Fixture>) -> Result<()> {
    let pair = fixture.with_own_pair(Replication::Synchronous)?;
    let (mut system, burst) = start(pair.prepared().await?, &[], &[]).await?;
    lists_go_on(&system).await?;
    pair.primary().kill();
    burst.is_accepted().await?;
    for gateway in 0..system.gateways.len() {
        is_degraded(&system, gateway, "PostgreSQL can't be reached: lists get 503, updates 202 (")
            .await?;
    }
    pair.promote(&mut system).await?;
    lists_come_back(&system).await?;
    burst.is_decided().await?;

    pair.primary().start()?;
    the_old_primary_is_not_used(&pair, &system, &burst).await?;
    rejoins(&pair)?;
    survived(system, burst).await
}

async fn a_stalled_primary_that_goes_on_is_not_used_again(fixture: Arc<Fixture>) -> Result<()> {
    let pair = fixture.with_own_pair(Replication::Synchronous)?;
    let (mut system, burst) = start(pair.prepared().await?, &[], &[]).await?;
    lists_go_on(&system).await?;
    pair.primary().pause();
    burst.is_accepted().await?;
    pair.promote(&mut system).await?;
    lists_come_back(&system).await?;
    burst.is_decided().await?;

    pair.primary().resume();
    the_old_primary_is_not_used(&pair, &system, &burst).await?;
    rejoins(&pair)?;
    survived(system, burst).await
}

async fn what_an_asynchronous_standby_lacks_is_not_shown(fixture: Arc<Fixture>) -> Result<()> {
    let pair = fixture.with_own_pair(Replication::Asynchronous)?;
    let mut system = pair.prepared().await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    for process in system.gateways.iter().chain(&system.workers) {
        let log = process.log()?;
        ensure!(log.contains("commits of PostgreSQL wait for no standby"), "{log}");
    }
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let kept = system.post(&json!({ "name": "DNS", "impact": 1 })).await?;
    ensure!(kept.status == 201, "{kept:?}");
    // From here on the standby gets nothing.
    let newest = position(pair.primary(), &system)?;
    eventually("the standby has the first update", async || {
        Ok(position(&pair.standby, &system)? == newest)
    })
    .await?;
    pair.standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''")?;
    pair.standby.psql("postgres", "SELECT pg_reload_conf()")?;
    eventually("the standby follows no longer", async || {
        Ok(pair.primary().psql("postgres", "SELECT count(*) FROM pg_stat_replication")? == "0")
    })
    .await?;
    let lost = system.post(&json!({ "name": "CDN", "impact": 2 })).await?;
    ensure!(lost.status == 201, "{lost:?}");
    let before = system.get(LISTS[0]).await?;
    ensure!(before.body.as_array().is_some_and(|list| list.len() == 2), "{before:?}");

    pair.primary().kill();
    pair.promote(&mut system).await?;
    lists_come_back(&system).await?;
    let unchanged =
        system.request_to(0, Method::GET, LISTS[0]).header("If-None-Match", before.header("etag"));
    let after = answer(unchanged).await?;
    let shown = after.body.as_array().context("no list")?;
    ensure!(
        after.status == 200 && shown.len() == 1 && shown[0]["id"] == kept.body["id"],
        "{after:?}"
    );
    let log = system.gateways[0].log()?;
    ensure!(log.contains("PostgreSQL has lost changes"), "{log}");
    // The monitor repeats its report.
    eventually("the update is applied again", async || {
        Ok(system.post(&json!({ "name": "CDN", "impact": 2 })).await?.status == 201)
    })
    .await?;
    system.finish().await
}
