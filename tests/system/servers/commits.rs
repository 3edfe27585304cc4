//! Commits that wait for a synchronous standby: they are neither failed nor given up.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use harness::{
    ADMIN, Fixture, Process, Replication, System, answer, burst::Burst, burst::took_effect_once,
    eventually, tests,
};

use crate::{
    failures::{lists_go_on, start, survived},
    telemetry::{Scrape, ready},
};

tests!(commits_wait_until_the_standby_is_back, a_wait_that_is_cancelled_is_a_commit,);

const REASON: &str = "commits wait for a synchronous standby of PostgreSQL: updates get 202";

/// Waits until a worker reports that a commit waits, in its metrics, its readiness and its log.
async fn reports_the_wait(system: &System, worker: &Process) -> Result<()> {
    let address = worker.admin_address().await?;
    eventually("the worker reports that a commit waits", async || {
        let scrape = Scrape::of(system, &address).await?;
        Ok(scrape.sum("sdb_commits_waiting_for_standby", &[]) >= 1.0)
    })
    .await?;
    let report = ready(system, &address).await?;
    let reasons = report.body["reasons"].as_array().context("no reasons")?;
    ensure!(report.status == 200 && report.body["status"] == "degraded", "{report:?}");
    ensure!(reasons.iter().any(|reason| reason == REASON), "{report:?}");
    let says = "a commit waits for a synchronous standby";
    eventually("the log says it", async || Ok(worker.log()?.contains(says))).await
}

async fn commits_wait_until_the_standby_is_back(fixture: Arc<Fixture>) -> Result<()> {
    let pair = fixture.with_own_pair(Replication::Synchronous)?;
    let (system, burst) = start(pair.prepared().await?, &[], &[ADMIN]).await?;
    pair.standby.kill();
    burst.is_accepted().await?;
    lists_go_on(&system).await?;
    reports_the_wait(&system, &system.workers[0]).await?;
    lists_go_on(&system).await?;
    pair.standby.start()?;
    survived(system, burst).await
}

async fn a_wait_that_is_cancelled_is_a_commit(fixture: Arc<Fixture>) -> Result<()> {
    let pair = fixture.with_own_pair(Replication::Synchronous)?;
    let mut system = pair.prepared().await?;
    system.start_worker(&[ADMIN]).await?;
    system.start_gateway(&[]).await?;
    let burst = Burst::start(&system).await?;
    pair.standby.kill();
    burst.is_accepted().await?;
    let before = system.count("SELECT position FROM sdb_scope").await?;
    let cancelled = "SELECT count(*) FROM (SELECT pg_cancel_backend(pid) FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND datname = current_database()) AS cancelled";
    ensure!(system.count(cancelled).await? >= 1, "no commit waits");
    eventually("the commit counts", async || {
        Ok(system.count("SELECT position FROM sdb_scope").await? > before)
    })
    .await?;
    // Taken out, the standby is waited for no longer.
    pair.primary().wait_for_standbys("")?;
    burst.is_decided().await?;
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    let scrape = Scrape::of(&system, &system.workers[0].admin_address().await?).await?;
    // A machine on which no heartbeat gets through ends the worker's session, and with it what is under way.
    if !system.workers[0].log()?.contains("consuming stopped") {
        scrape.is("sdb_transaction_duration_seconds_count", &["result=\"failed\""], 0)?;
        scrape.is("sdb_updates_applied_total", &["outcome=\"redelivered\""], 0)?;
    }
    let list = answer(system.request_to(0, reqwest::Method::GET, "/api/v1/incidents")).await?;
    ensure!(list.status == 200, "{list:?}");
    system.finish().await
}
