//! Weeks turn: with workers, without, and by a clock that is set.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{Fixture, System, eventually, publish, status_update, tests};
use serde_json::json;
use shared::domain::{impact::Impact, update_id::UpdateId};
use tokio::time::{Instant, sleep_until};

use super::{
    clock::{prepared, set_clock},
    gateway, is_applied, message, no_worker, part_of, receipt, text, week_of, weeks, worker,
};

tests!(
    the_turn_of_a_week_changes_nothing_for_updates,
    one_batch_has_updates_of_two_weeks,
    an_id_ahead_of_the_clock_has_its_part,
    weeks_without_a_worker_lose_nothing,
    a_clock_that_leaves_the_partitions_behind_stops_no_update,
);

const MONDAY: &str = "date_trunc('week', now) + interval '7 days'";

/// The first day of the next week.
async fn monday(system: &System) -> Result<String> {
    let now = "pg_catalog.clock_timestamp() AT TIME ZONE 'UTC' AS now";
    text(system, &format!("SELECT to_char({MONDAY}, 'YYYYMMDD') FROM (SELECT {now}) AS c")).await
}

async fn the_turn_of_a_week_changes_nothing_for_updates(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    // Long enough for the start of the programs on a busy machine.
    let almost = Instant::now() + Duration::from_secs(19);
    set_clock(&system, &format!("{MONDAY} - interval '20 seconds'")).await?;
    worker(&mut system, "90").await?;
    gateway(&mut system, "90").await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    // One that is surely of the old week, however long the next one takes.
    let first = system.post_async(0, &json!({ "name": "DNS", "impact": 1 })).await?;
    sleep_until(almost).await;
    let monday = monday(&system).await?;
    // Updates without a pause until some are of the new week.
    let mut ids = vec![first];
    let mut after = 0;
    while after < 20 {
        let name = ["DNS", "CDN"][ids.len() % 2];
        let impact = 1 + (ids.len() / 40).min(2);
        let update = json!({ "name": name, "impact": impact });
        let answer = system.post_with_default_wait(&update).await?;
        ensure!([200, 201, 202].contains(&answer.status), "{answer:?}");
        let id = answer.header("update-id").to_owned();
        after += usize::from(text(&system, &week_of(&id)).await? == monday);
        ids.push(id);
    }
    ensure!(after < ids.len(), "the week had turned before the first update");
    for id in &ids {
        is_applied(&system, id).await?;
        ensure!(part_of(&system, id).await? == text(&system, &week_of(id)).await?, "{id}");
    }
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == ids.len() as i64);
    system.finish().await
}

async fn one_batch_has_updates_of_two_weeks(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    set_clock(&system, &format!("{MONDAY} - interval '1 hour'")).await?;
    gateway(&mut system, "90").await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    // A worker makes the queues.
    worker(&mut system, "90").await?;
    no_worker(&mut system).await?;
    let mut ids = vec![system.post_async(0, &status_update("DNS", 1)).await?];
    ids.push(system.post_async(0, &json!({ "name": "CDN", "impact": 2 })).await?);
    set_clock(&system, &format!("{MONDAY} + interval '1 hour'")).await?;
    let monday = monday(&system).await?;
    eventually("the gateway stamps by the new week", async || {
        ids.push(system.post_async(0, &status_update("DNS", 2)).await?);
        let last = ids.last().context("an id")?;
        Ok(text(&system, &week_of(last)).await? == monday)
    })
    .await?;
    worker(&mut system, "90").await?;
    let mut parts = Vec::new();
    for id in &ids {
        is_applied(&system, id).await?;
        parts.push(part_of(&system, id).await?);
    }
    ensure!(parts[0] < monday && parts[1] < monday && parts.last() == Some(&monday), "{parts:?}");
    system.finish().await
}

async fn an_id_ahead_of_the_clock_has_its_part(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    // What a gateway of an earlier version, or of before a failover, may have stamped.
    set_clock(&system, &format!("{MONDAY} - interval '1 minute'")).await?;
    worker(&mut system, "1").await?;
    gateway(&mut system, "1").await?;
    system.components(&[("DNS", &[])]).await?;
    let ahead = format!(
        "SELECT (extract(epoch FROM {MONDAY} + interval '4 minutes') * 1000000)::bigint
        FROM (SELECT pg_catalog.clock_timestamp() AT TIME ZONE 'UTC' AS now) AS c"
    );
    let at = shared::domain::timestamp::Timestamp::from_micros(system.count(&ahead).await?)?;
    let id = UpdateId::at(at);
    let (status, body) = receipt(&system, &id.to_string()).await?;
    ensure!(status == 200 && body["state"] == "pending", "{status} {body}");
    publish(&system, &message(id, Impact::Minor)?).await?;
    is_applied(&system, &id.to_string()).await?;
    // Delivered again it is known.
    publish(&system, &message(id, Impact::Minor)?).await?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1);
    system.finish().await
}

/// Moves the clock by eight weeks, and posts until the gateway stamps by it; returns the last update.
async fn posted_eight_weeks_later(system: &System) -> Result<String> {
    set_clock(system, "now + interval '8 weeks'").await?;
    let week = text(
        system,
        "SELECT to_char(pg_catalog.clock_timestamp() + interval '7 weeks', 'YYYYMMDD')",
    );
    let week = week.await?;
    let mut last = String::new();
    eventually("the gateway stamps by the new clock", async || {
        last = system.post_async(0, &json!({ "name": "CDN", "impact": 3 })).await?;
        Ok(text(system, &week_of(&last)).await? > week)
    })
    .await?;
    Ok(last)
}

async fn weeks_without_a_worker_lose_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    worker(&mut system, "90").await?;
    gateway(&mut system, "90").await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    no_worker(&mut system).await?;
    let early = system.post_async(0, &status_update("DNS", 1)).await?;
    let late = posted_eight_weeks_later(&system).await?;
    ensure!(
        !weeks(&system).await?.contains(&text(&system, &week_of(&late)).await?),
        "a part is there"
    );
    worker(&mut system, "90").await?;
    is_applied(&system, &early).await?;
    is_applied(&system, &late).await?;
    ensure!(part_of(&system, &early).await? < part_of(&system, &late).await?);
    system.finish().await
}

async fn a_clock_that_leaves_the_partitions_behind_stops_no_update(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    worker(&mut system, "90").await?;
    gateway(&mut system, "90").await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    // A machine that slept, or a database that was restored: no part is there, and the worker runs on.
    let last = posted_eight_weeks_later(&system).await?;
    is_applied(&system, &last).await?;
    system.finish().await
}
