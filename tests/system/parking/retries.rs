//! What fails for a passing reason is tried again, and nothing goes out of order.

use std::sync::Arc;

use anyhow::{Result, ensure};
use sqlx::AssertSqlSafe;

use super::{Publisher, in_order, message, refuse, settled, update, with_components};
use harness::{Fixture, eventually, replay, tests};

tests!(
    a_redelivered_update_takes_effect_once,
    a_lock_that_is_held_for_long_parks_nothing,
    what_passes_is_tried_again_and_never_parked,
    one_clients_updates_of_a_component_keep_their_order,
);

async fn a_redelivered_update_takes_effect_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let publisher = Publisher::connect(&system).await?;
    ensure!(settled(&system, &update("CDN", 1, "first")).await?.status == 201);
    let joins = message(&system, 1, "DNS").await?;
    let bytes = joins.encode();
    for message_id in [Some(joins.id.to_string()), None, Some("another".to_owned())] {
        publisher.send(1, &bytes, message_id.as_deref()).await?;
    }
    ensure!(system.applied(&joins.id.to_string()).await?["outcome"] == "joined");
    let record = "SELECT json_agg(i ORDER BY position)::text FROM sdb_inbox i";
    let inbox = async || -> Result<String> {
        Ok(sqlx::query_scalar(AssertSqlSafe(record)).fetch_one(&system.database).await?)
    };
    let before = inbox().await?;
    // After its commit, to another partition, and after it has left the incident.
    publisher.send(1, &bytes, None).await?;
    publisher.send(2, &bytes, None).await?;
    ensure!(settled(&system, &update("CDN", 1, "behind")).await?.status == 200);
    ensure!(settled(&system, &update("DNS", 2, "moves")).await?.status == 201);
    publisher.send_update(&joins).await?;
    ensure!(settled(&system, &update("DNS", 2, "behind")).await?.status == 200);
    ensure!(inbox().await?.starts_with(before.trim_end_matches(']')), "its record was changed");
    ensure!(in_order(&system, 1).await?.len() == 3);
    let notes = "SELECT count(*) FROM incident_status WHERE text LIKE 'DNS%added%'";
    ensure!(system.count(notes).await? == 1);
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn a_lock_that_is_held_for_long_parks_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let scope = system.hold_scope().await?;
    let mut ids = Vec::new();
    for impact in [1, 2, 3] {
        ids.push(system.post_async(0, &update("DNS", impact, "held")).await?);
    }
    eventually("the worker has given up once", async || {
        Ok(system.workers[0].log()?.contains("trying again"))
    })
    .await?;
    ensure!(system.receipt(&ids[0]).await?["state"] == "pending");
    scope.commit().await?;
    for (id, outcome) in ids.iter().zip(["opened", "raised", "raised"]) {
        ensure!(system.applied(id).await?["outcome"] == outcome);
    }
    ensure!(in_order(&system, 1).await? == ids);
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn what_passes_is_tried_again_and_never_parked(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    // Serialization, deadlock, disk full, memory, connections, cancelled, shutdown, lock, I/O, a
    // missing right, read-only, an internal error.
    for code in [
        "40001", "40P01", "53100", "53200", "53300", "57014", "57P01", "55P03", "58030", "42501",
        "25006", "XX000",
    ] {
        refuse(&system, "sdb_inbox", "unlucky", &format!("USING ERRCODE = '{code}'")).await?;
        let tried =
            || -> Result<usize> { Ok(system.workers[0].log()?.matches("trying again").count()) };
        let before = tried()?;
        let id = system.post_async(0, &update("DNS", 1, "unlucky")).await?;
        eventually("the worker has tried twice", async || Ok(tried()? >= before + 2)).await?;
        ensure!(system.receipt(&id).await?["state"] == "pending", "after {code}");
        system.sql("DROP TRIGGER refuse ON sdb_inbox").await?;
        system.applied(&id).await?;
    }
    // Its connection is ended in the middle of a batch.
    let scope = system.hold_scope().await?;
    let id = system.post_async(0, &update("CDN", 1, "cut")).await?;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'worker'
            AND wait_event_type = 'Lock'";
    eventually("the worker waits and is cut", async || Ok(system.count(cut).await? > 0)).await?;
    scope.commit().await?;
    system.applied(&id).await?;
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn one_clients_updates_of_a_component_keep_their_order(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.start_worker(&[("SDB_BATCH", "7")]).await?;
    let mut ids = Vec::new();
    for number in 0..300 {
        let body = update("DNS", 1 + u8::from(number >= 150), &format!("update {number}"));
        ids.push(system.post_async(number % 2, &body).await?);
        if number == 100 {
            // The others go on with another worker, in other batches.
            system.workers[0].signal(nix::sys::signal::Signal::SIGTERM)?;
        }
    }
    system.applied(&ids[299]).await?;
    ensure!(in_order(&system, 1).await? == ids, "the inbox has another order");
    let (first, raised) = (system.receipt(&ids[0]).await?, system.receipt(&ids[150]).await?);
    ensure!(first["outcome"] == "opened" && raised["outcome"] == "raised", "{first} {raised}");
    let not_later = "SELECT count(*) FROM (SELECT decided_at - lag(decided_at)
        OVER (ORDER BY position) AS step FROM sdb_inbox) AS s WHERE step <= interval '0'";
    ensure!(system.count(not_later).await? == 0, "decisions are not later than those before");
    replay::agrees(&system.database).await?;
    system.finish().await
}
