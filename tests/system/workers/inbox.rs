//! The parts of the inbox, a week of ids each: made ahead, dropped when they are old, and what becomes of
//! updates at their bounds. PostgreSQL's clock is shifted, since all of it goes by that clock.

mod clock;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    component::{Component, ComponentId},
    impact::Impact,
    message::UpdateMessage,
    update_id::UpdateId,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep_until};

use self::clock::{prepared, set_clock};
use harness::{Fixture, System, answer, eventually, publish, status_update, tests};

tests!(
    the_turn_of_a_week_changes_nothing_for_updates,
    one_batch_has_updates_of_two_weeks,
    partitions_are_dropped_after_their_days_and_not_before,
    an_update_whose_part_was_dropped_is_not_applied_again,
    an_id_ahead_of_the_clock_has_its_part,
    a_session_that_reads_the_inbox_keeps_its_partitions_and_nothing_else,
    weeks_without_a_worker_lose_nothing,
    a_clock_that_leaves_the_partitions_behind_stops_no_update,
);

/// Starts a worker, which makes and drops parts before it consumes.
async fn worker(system: &mut System, days: &str) -> Result<()> {
    system.start_worker(&[("SDB_INBOX_DAYS", days), ("SDB_ADMIN_ADDRESS", "127.0.0.1:0")]).await
}

/// Starts a gateway, whose machine's clock may differ from PostgreSQL's: it is ready then, but degraded.
async fn gateway(system: &mut System, days: &str) -> Result<()> {
    system.start_gateway_unready(&[("SDB_INBOX_DAYS", days)]).await?;
    eventually("the gateway serves", async || Ok(system.get("/readyz").await?.status == 200)).await
}

/// Ends all workers.
async fn no_worker(system: &mut System) -> Result<()> {
    for mut worker in system.workers.drain(..) {
        worker.signal(Signal::SIGTERM)?;
        ensure!(worker.ended().await?.success());
    }
    Ok(())
}

/// The first days of the weeks that have a part.
async fn weeks(system: &System) -> Result<Vec<String>> {
    let parts = "SELECT right(inhrelid::regclass::text, 8) FROM pg_inherits
        WHERE inhparent = 'sdb_inbox'::regclass ORDER BY 1";
    Ok(sqlx::query_scalar(parts).fetch_all(&system.database).await?)
}

async fn text(system: &System, query: &str) -> Result<String> {
    Ok(sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&system.database).await?)
}

async fn receipt(system: &System, id: &str) -> Result<(u16, Value)> {
    let receipt = system.get(&format!("/api/v1/updates/{id}")).await?;
    Ok((receipt.status, receipt.body))
}

async fn is_applied(system: &System, id: &str) -> Result<()> {
    eventually(
        "the update is applied",
        async || Ok(receipt(system, id).await?.1["state"] == "done"),
    )
    .await
}

/// The first day of the week of an id.
fn week_of(id: &str) -> String {
    format!(
        "SELECT to_char(date_trunc('week', to_timestamp(('x' || left(replace('{id}', '-', ''), 12))
            ::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC'), 'YYYYMMDD')"
    )
}

/// The part that has the record of an update.
async fn part_of(system: &System, id: &str) -> Result<String> {
    text(
        system,
        &format!("SELECT right(tableoid::regclass::text, 8) FROM sdb_inbox WHERE id = '{id}'"),
    )
    .await
}

const MONDAY: &str = "date_trunc('week', now) + interval '7 days'";

async fn the_turn_of_a_week_changes_nothing_for_updates(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    // Long enough for the start of the programs on a busy machine.
    let almost = Instant::now() + Duration::from_secs(9);
    set_clock(&system, &format!("{MONDAY} - interval '10 seconds'")).await?;
    worker(&mut system, "90").await?;
    gateway(&mut system, "90").await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    sleep_until(almost).await;
    let monday = text(
        &system,
        &format!(
            "SELECT to_char({MONDAY}, 'YYYYMMDD') FROM (SELECT
        pg_catalog.clock_timestamp() AT TIME ZONE 'UTC' AS now) AS c"
        ),
    )
    .await?;
    // Updates without a pause until some are of the new week.
    let mut ids = Vec::new();
    let mut after = 0;
    while after < 20 {
        let name = ["DNS", "CDN"][ids.len() % 2];
        let impact = 1 + (ids.len() / 40).min(2);
        let answer = system.post(&json!({ "name": name, "impact": impact })).await?;
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
    let monday = text(
        &system,
        &format!(
            "SELECT to_char({MONDAY}, 'YYYYMMDD') FROM (SELECT
        pg_catalog.clock_timestamp() AT TIME ZONE 'UTC' AS now) AS c"
        ),
    )
    .await?;
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

/// A worker and a gateway that keep ten days, on the third day of a week; DNS is component 1.
async fn in_the_middle_of_a_week(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = prepared(fixture).await?;
    set_clock(&system, "date_trunc('week', now) + interval '2 days'").await?;
    worker(&mut system, "10").await?;
    gateway(&mut system, "10").await?;
    system.components(&[("DNS", &[])]).await?;
    Ok(system)
}

async fn partitions_are_dropped_after_their_days_and_not_before(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = in_the_middle_of_a_week(&fixture).await?;
    let first = system.post(&status_update("DNS", 1)).await?;
    ensure!(first.status == 201, "{first:?}");
    let first = first.header("update-id").to_owned();
    let this_week = part_of(&system, &first).await?;
    let (kept, dropped) = (weeks(&system).await?, |weeks: &[String]| !weeks.contains(&this_week));
    // From the week of the day that is kept longest to the week after next.
    ensure!(kept.iter().filter(|week| **week > this_week).count() == 2, "{kept:?}");

    // The last moment at which the week's last second is kept, and somewhat after.
    let end = "date_trunc('week', now) + interval '7 days' + interval '10 days'";
    no_worker(&mut system).await?;
    set_clock(&system, &format!("{end} - interval '1 minute'")).await?;
    worker(&mut system, "10").await?;
    ensure!(!dropped(&weeks(&system).await?), "it was dropped too early");
    ensure!(receipt(&system, &first).await?.0 == 200, "the record is there, so its receipt is");
    no_worker(&mut system).await?;
    set_clock(&system, &format!("{end} + interval '1 second'")).await?;
    worker(&mut system, "10").await?;
    ensure!(dropped(&weeks(&system).await?), "{:?}", weeks(&system).await?);
    let (status, body) = receipt(&system, &first).await?;
    ensure!(status == 404, "{status} {body}");
    let ahead = weeks(&system).await?.iter().filter(|week| **week > this_week).count();
    ensure!(ahead >= 4, "the weeks from then on have parts: {:?}", weeks(&system).await?);
    // The incident outlives the record. Another gateway posts: the first may not have read the new time yet.
    gateway(&mut system, "10").await?;
    eventually("it lacks nothing but the right clock", async || {
        let ready = answer(system.request_to(1, Method::GET, "/readyz")).await?;
        Ok(ready.status == 200 && ready.body["reasons"].as_array().map(Vec::len) == Some(1))
    })
    .await?;
    let second = answer(system.update_to(1, &status_update("DNS", 1))).await?;
    ensure!(second.status == 200, "{second:?}");
    system.finish_without_replay().await
}

/// An update about DNS, which is component 1.
fn message(id: UpdateId, impact: Impact) -> Result<UpdateMessage> {
    let component =
        Component { id: ComponentId(1), name: "DNS".to_owned(), attributes: Vec::new() };
    let received_at = id.made_at().context("an id with a time")?;
    let (condition, text, idempotency, report) = (impact.into(), "x".into(), None, None);
    Ok(UpdateMessage { id, component, condition, text, received_at, idempotency, report })
}

async fn an_update_whose_part_was_dropped_is_not_applied_again(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = in_the_middle_of_a_week(&fixture).await?;
    let old = system.post(&status_update("DNS", 3)).await?;
    ensure!(old.status == 201, "{old:?}");
    let id = UpdateId(old.header("update-id").parse()?);
    // A person closes what it opened: applied again, it would open another one.
    let (done, said) = system.worker_command(&["incident", "close", "1"]).await?;
    ensure!(done, "{said}");
    no_worker(&mut system).await?;
    set_clock(&system, "date_trunc('week', now) + interval '18 days'").await?;
    worker(&mut system, "10").await?;

    publish(&system, &message(id, Impact::Outage)?).await?;
    let reason = "SELECT coalesce(max(reason), '') FROM sdb_parked WHERE put_back_at IS NULL";
    eventually("it is parked", async || Ok(!text(&system, reason).await?.is_empty())).await?;
    let says = text(&system, reason).await?;
    ensure!(says.contains("older than SDB_INBOX_DAYS"), "{says}");
    let (status, body) = receipt(&system, &id.to_string()).await?;
    ensure!(status == 200 && body["state"] == "parked", "{status} {body}");
    // Put back it is parked again, not applied.
    let before = text(&system, "SELECT max(parked_at)::text FROM sdb_parked").await?;
    let (done, said) = system.worker_command(&["parked", "put-back", "--all"]).await?;
    ensure!(done, "{said}");
    eventually("it is parked again", async || {
        let now =
            "SELECT coalesce(max(parked_at)::text, '') FROM sdb_parked WHERE put_back_at IS NULL";
        let parked_at = text(&system, now).await?;
        Ok(!parked_at.is_empty() && parked_at != before)
    })
    .await?;
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1, "it was applied again");
    // The component's other updates go on.
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    system.finish_with_logs()
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
    let at = shared::timestamp::Timestamp::from_micros(system.count(&ahead).await?)?;
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

async fn oldest_part(system: &System) -> Result<String> {
    let log = system.workers[0].log()?;
    let address = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| line["admin"].as_str().or(line["address"].as_str()).map(str::to_owned))
        .context("the worker has no address")?;
    let metrics =
        system.client.get(format!("http://{address}/metrics")).send().await?.text().await?;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("sdb_inbox_oldest_part_timestamp_seconds "))
        .context("no metric")?
        .to_owned();
    text(system, &format!("SELECT to_char(to_timestamp({value}) AT TIME ZONE 'UTC', 'YYYYMMDD')"))
        .await
}

async fn a_session_that_reads_the_inbox_keeps_its_partitions_and_nothing_else(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    worker(&mut system, "10").await?;
    gateway(&mut system, "10").await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    no_worker(&mut system).await?;
    let oldest = weeks(&system).await?[0].clone();

    let options: sqlx::postgres::PgConnectOptions = system.database_uri.parse()?;
    let mut reader = PgConnection::connect_with(&options.application_name("a long report")).await?;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM sdb_inbox").execute(&mut reader).await?;
    set_clock(&system, "now + interval '5 weeks'").await?;
    worker(&mut system, "10").await?;
    let log = system.workers[0].log()?;
    let line = log.lines().find(|line| line.contains("old partitions of the inbox are being read"));
    let line = line.context("the log does not say that a part can't be dropped")?;
    ensure!(line.contains("a long report") && line.contains("pid "), "{line}");
    ensure!(weeks(&system).await?[0] == oldest, "a part was dropped under a reader");
    eventually(
        "the metric has the oldest part",
        async || Ok(oldest_part(&system).await? == oldest),
    )
    .await?;
    // Updates go on, by the parts of the new weeks.
    for impact in [2, 3] {
        ensure!(system.post(&status_update("DNS", impact)).await?.status == 201);
    }
    reader.close().await?;
    // Another worker, or this one within an hour.
    no_worker(&mut system).await?;
    worker(&mut system, "10").await?;
    ensure!(weeks(&system).await?[0] > oldest, "{:?}", weeks(&system).await?);
    eventually("the metric follows", async || Ok(oldest_part(&system).await? > oldest)).await?;
    system.finish_without_replay().await
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
