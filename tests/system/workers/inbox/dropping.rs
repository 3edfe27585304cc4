//! Parts are dropped when they are old, and what becomes of updates whose part was.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use harness::{Fixture, System, answer, eventually, publish, status_update, tests};
use reqwest::Method;
use serde_json::Value;
use shared::domain::{impact::Impact, update_id::UpdateId};
use sqlx::{Connection as _, PgConnection};

use super::{
    clock::{prepared, set_clock},
    gateway, message, no_worker, part_of, receipt, text, weeks, worker,
};

tests!(
    partitions_are_dropped_after_their_days_and_not_before,
    an_update_whose_part_was_dropped_is_not_applied_again,
    a_session_that_reads_the_inbox_keeps_its_partitions_and_nothing_else,
);

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
    let second = system.update_to(1, &status_update("DNS", 1)).header("Prefer", "wait=30");
    let second = answer(second).await?;
    ensure!(second.status == 200, "{second:?}");
    system.finish_without_replay().await
}

async fn an_update_whose_part_was_dropped_is_not_applied_again(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = in_the_middle_of_a_week(&fixture).await?;
    let old = system.post(&status_update("DNS", 3)).await?;
    ensure!(old.status == 201, "{old:?}");
    let id = UpdateId(old.header("update-id").parse()?);
    // A person closes what it opened: applied again, it would open another one.
    system.worker_succeeds(&["incident", "close", "1"]).await?;
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
    // Requeued, it is parked again, not applied.
    let before = text(&system, "SELECT max(parked_at)::text FROM sdb_parked").await?;
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
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
