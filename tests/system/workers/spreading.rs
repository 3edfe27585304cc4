//! Several workers: who has which partitions, and what becomes of those of a worker that is killed,
//! that stalls and wakes, or that can't reach a server.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shared::wire::message::NEWEST;
use tokio::{task::spawn_blocking, time::Instant};
use worker::{
    batch::{ApplyError, apply},
    store::workers::MemberId,
};

use harness::{Fixture, System, eventually, replay, status_update, tests};

tests!(
    partitions_are_spread_evenly_over_the_workers_that_live,
    more_workers_than_partitions_stand_by,
    a_worker_that_stalls_between_batches_is_replaced_and_does_no_harm,
    a_worker_that_stalls_in_its_transaction_is_replaced_and_does_no_harm,
    a_worker_that_was_missed_may_not_commit,
    a_second_signal_ends_a_worker_at_once_and_loses_nothing,
    an_update_whose_gateway_is_killed_takes_effect_once_for_a_client_that_tries_another,
);

/// How many partitions each worker is given messages of, by what RabbitMQ says.
pub(crate) async fn spread(system: &System) -> Result<BTreeMap<String, usize>> {
    let (servers, vhost) = (system.context.servers.clone(), system.vhost.clone());
    let listed = spawn_blocking(move || {
        let columns = ["queue_name", "consumer_tag", "active"];
        let list = ["list_consumers", "--no-table-headers", "-p", &vhost];
        servers.rabbitmq().ctl(&[list.as_slice(), &columns].concat())
    })
    .await??;
    let mut spread: BTreeMap<String, usize> = BTreeMap::new();
    for line in listed.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        if let [queue, worker, "true"] = columns[..]
            && queue.contains(".p")
        {
            *spread.entry(worker.to_owned()).or_default() += 1;
        }
    }
    Ok(spread)
}

/// Waits until the workers have so many partitions each.
async fn are_spread(system: &System, expected: &[usize]) -> Result<()> {
    let mut last = BTreeMap::new();
    eventually("the partitions are spread", async || {
        last = spread(system).await?;
        let mut counts: Vec<usize> = last.values().copied().collect();
        counts.sort_unstable();
        Ok(counts == expected)
    })
    .await
    .with_context(|| format!("expected {expected:?}, have {last:?}"))
}

async fn partitions_are_spread_evenly_over_the_workers_that_live(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    are_spread(&system, &[8]).await?;
    system.start_worker(&[]).await?;
    are_spread(&system, &[4, 4]).await?;
    system.start_worker(&[]).await?;
    are_spread(&system, &[2, 3, 3]).await?;

    system.workers[0].signal(Signal::SIGKILL)?;
    are_spread(&system, &[4, 4]).await?;
    system.workers[1].signal(Signal::SIGTERM)?;
    are_spread(&system, &[8]).await?;
    system.start_worker(&[]).await?;
    are_spread(&system, &[4, 4]).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    system.finish().await
}

async fn more_workers_than_partitions_stand_by(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::bare(&fixture).await?;
    let variables = [("SDB_DATABASE_URI", system.database_uri.as_str()), ("SDB_PARTITIONS", "2")];
    let (done, said) = fixture.command(&fixture.binaries.worker, &["migrate"], &variables).await?;
    ensure!(done, "{said}");
    for _ in 0..3 {
        system.start_worker(&[]).await?;
    }
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    are_spread(&system, &[1, 1]).await?;
    // The one that stands by takes over.
    system.workers[0].signal(Signal::SIGKILL)?;
    for name in ["DNS", "CDN"] {
        system.is_decided(&status_update(name, 1)).await?;
    }
    are_spread(&system, &[1, 1]).await?;
    system.finish().await
}

/// What was taken is in the inbox once, the state follows from it, and both workers have a share.
async fn no_harm_was_done(system: System, taken: i64) -> Result<()> {
    are_spread(&system, &[4, 4]).await?;
    system.is_decided(&status_update("DNS", 1)).await?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? >= taken);
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn a_worker_that_stalls_between_batches_is_replaced_and_does_no_harm(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    system.workers[0].signal(Signal::SIGSTOP)?;
    // They are delivered to the one that is stalled.
    let mut taken = 0;
    for _ in 0..20 {
        system.post_async(0, &status_update("DNS", 1)).await?;
        taken += 1;
    }
    system.start_worker(&[]).await?;
    system.is_decided(&status_update("DNS", 1)).await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? > taken);
    system.workers[0].signal(Signal::SIGCONT)?;
    no_harm_was_done(system, taken).await
}

async fn a_worker_that_stalls_in_its_transaction_is_replaced_and_does_no_harm(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    // Its transaction has the scope's lock when it waits for this one.
    let mut held = system.database.begin().await?;
    sqlx::query("LOCK TABLE incident IN EXCLUSIVE MODE").execute(&mut *held).await?;
    let id = system.post_async(0, &status_update("DNS", 1)).await?;
    system.waits_for_a_lock().await?;
    system.workers[0].signal(Signal::SIGSTOP)?;
    held.rollback().await?;

    system.start_worker(&[]).await?;
    system.is_decided(&status_update("DNS", 1)).await?;
    let first = system.receipt(&id).await?;
    ensure!(first["outcome"] == "opened", "{first}");
    system.workers[0].signal(Signal::SIGCONT)?;
    no_harm_was_done(system, 2).await
}

async fn a_worker_that_was_missed_may_not_commit(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let join = "INSERT INTO sdb_worker (seen_at, reads) VALUES
        ((clock_timestamp() AT TIME ZONE 'UTC') - make_interval(secs => $1), $2) RETURNING id";
    let mut database = system.database.acquire().await?;
    // As in a worker's session: compiling the plan would take longer than a membership lasts.
    sqlx::raw_sql("SET jit = off").execute(&mut *database).await?;
    for (seconds, lives) in [(0.0, true), (2.0, true), (4.0, false), (-4.0, false)] {
        eventually("it is tried within a second of its age", async || {
            let began = Instant::now();
            let member: MemberId = sqlx::query_scalar(join)
                .bind(seconds)
                .bind(i32::from(NEWEST))
                .fetch_one(&mut *database)
                .await?;
            let applied = apply(&mut database, member, &[]).await;
            // A membership lasts for three seconds: after a pause of the machine it may have another age.
            if began.elapsed() >= Duration::from_millis(900) {
                return Ok(false);
            }
            match (applied, lives) {
                (Ok(_), true) | (Err(ApplyError::Expired), false) => Ok(true),
                (other, _) => anyhow::bail!("seen {seconds} s ago: {other:?}"),
            }
        })
        .await?;
    }
    system.finish_with_parked()
}

async fn a_second_signal_ends_a_worker_at_once_and_loses_nothing(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let held = system.hold_scope().await?;
    let id = system.post_async(0, &status_update("DNS", 1)).await?;
    system.waits_for_a_lock().await?;
    let mut worker = system.workers.remove(0);
    worker.signal(Signal::SIGTERM)?;
    eventually("the worker heard", async || Ok(worker.log()?.contains("stopping"))).await?;
    worker.signal(Signal::SIGTERM)?;
    let status = worker.ended().await?;
    ensure!(status.code() == Some(1), "{status}");
    held.rollback().await?;
    system.start_worker(&[]).await?;
    system.drained().await?;
    let receipt = system.receipt(&id).await?;
    ensure!(receipt["outcome"] == "opened", "{receipt}");
    system.finish().await
}

async fn an_update_whose_gateway_is_killed_takes_effect_once_for_a_client_that_tries_another(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let with_key = |gateway| {
        system
            .update_to(gateway, &status_update("DNS", 2))
            .header("Idempotency-Key", "once")
            .header("Prefer", "wait=30")
    };
    // Without a worker the first waits for its outcome, confirmed and queued.
    let first = tokio::spawn(with_key(0).send());
    let queue = system.topology().await?.queue(1);
    eventually("the update is queued", async || Ok(system.waiting(&queue).await? == 1)).await?;
    system.gateways[0].signal(Signal::SIGKILL)?;
    ensure!(first.await?.is_err(), "a killed gateway answers nothing");
    let second = tokio::spawn(with_key(1).send());
    eventually("the second is queued", async || Ok(system.waiting(&queue).await? == 2)).await?;
    system.start_worker(&[]).await?;
    let second = second.await??;
    ensure!([200, 201].contains(&second.status().as_u16()), "{second:?}");
    system.drained().await?;
    let outcomes: Vec<String> =
        sqlx::query_scalar("SELECT outcome FROM sdb_inbox ORDER BY position")
            .fetch_all(&system.database)
            .await?;
    ensure!(outcomes == ["opened", "repeated"], "{outcomes:?}");
    system.finish().await
}
