//! Servers that are unavailable, full or restarted, and processes that are stopped.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use shared::domain::component::ComponentId;
use tokio::time::Instant;

use super::is_shown;
use harness::{Fixture, System, eventually, status_update, tests};

tests!(
    without_the_broker_updates_get_503_at_once_and_lists_go_on,
    without_the_database_updates_are_kept_and_applied_later,
    without_a_worker_an_update_is_accepted_and_pending,
    a_gateway_that_stops_answers_waiting_requests,
    a_full_queue_refuses,
    a_queue_that_is_full_by_bytes_refuses_too,
    a_gateway_that_never_saw_a_catalogue_is_not_ready,
    a_worker_that_is_asked_to_stop_ends_cleanly,
    a_gateway_that_is_asked_to_stop_answers_what_it_has,
);

async fn with_dns(fixture: &Arc<Fixture>) -> Result<System> {
    System::start_with(fixture, &[("DNS", &[])]).await
}

async fn without_the_broker_updates_get_503_at_once_and_lists_go_on(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_dns(&fixture).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    system.drained().await?;
    let rabbitmq = fixture.servers.clone();
    let vhost = system.vhost.clone();
    tokio::task::spawn_blocking(move || rabbitmq.rabbitmq().delete_vhost(&vhost)).await??;
    eventually("the gateway notices", async || {
        Ok(system.get("/readyz").await?.body["status"] == "degraded")
    })
    .await?;

    let refused = system.post_with_default_wait(&status_update("DNS", 2)).await?;
    ensure!(refused.status == 503 && refused.header("retry-after") == "1", "{refused:?}");
    // It is not waited for.
    let why = refused.body["message"].as_str().unwrap_or_default();
    ensure!(why.contains("RabbitMQ can't be reached"), "{refused:?}");
    is_shown(&system, 0, "/api/v1/incidents").await?;

    let rabbitmq = fixture.servers.clone();
    let vhost = system.vhost.clone();
    tokio::task::spawn_blocking(move || rabbitmq.rabbitmq().create_vhost(&vhost)).await??;
    // The first ones may be answered 202: the worker, too, has to come back.
    system.is_decided(&status_update("DNS", 2)).await?;
    let incidents = system.get("/api/v1/incidents").await?;
    ensure!(incidents.body[0]["impact"] == 2, "{incidents:?}");
    system.finish().await
}

async fn without_the_database_updates_are_kept_and_applied_later(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_dns(&fixture).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    let name = &system.vhost;
    let (servers, away) = (fixture.servers.clone(), name.clone());
    tokio::task::spawn_blocking(move || {
        servers
            .postgres()
            .psql("postgres", &format!("ALTER DATABASE {away} ALLOW_CONNECTIONS false"))?;
        servers.postgres().psql(
            "postgres",
            &format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{away}'"
            ),
        )
    })
    .await??;

    let kept = system.post_with_default_wait(&status_update("DNS", 3)).await?;
    ensure!(kept.status == 202 && kept.body["state"] == "pending", "{kept:?}");
    let receipt = kept.header("location").to_owned();
    ensure!(receipt == format!("/api/v1/updates/{}", kept.header("update-id")), "{kept:?}");
    let list = system.get("/api/v1/incidents").await?;
    ensure!(list.status == 503 && list.header("retry-after") == "1", "{list:?}");
    let ready = system.get("/readyz").await?;
    ensure!(ready.status == 200 && ready.body["status"] == "degraded", "{ready:?}");

    let (servers, back) = (fixture.servers.clone(), name.clone());
    tokio::task::spawn_blocking(move || {
        servers
            .postgres()
            .psql("postgres", &format!("ALTER DATABASE {back} ALLOW_CONNECTIONS true"))
    })
    .await??;
    eventually("the update is applied", async || {
        let receipt = system.get(&receipt).await?;
        Ok(receipt.status == 200 && receipt.body["state"] == "done")
    })
    .await?;
    let receipt = system.get(&receipt).await?;
    ensure!(receipt.body["outcome"] == "raised" && receipt.body["impact"] == 3, "{receipt:?}");
    system.finish().await
}

async fn without_a_worker_an_update_is_accepted_and_pending(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let begin = Instant::now();
    let accepted = system.post_with_default_wait(&status_update("DNS", 1)).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    ensure!(!accepted.header("retry-after").is_empty(), "{accepted:?}");
    ensure!(accepted.header("link").ends_with("; rel=\"monitor\""), "{accepted:?}");
    // It was the default wait, not the longest one. That the default is short enough for the reporter of the
    // Python dashboard, the gateway's code asserts.
    ensure!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    let receipt = system.get(accepted.header("location")).await?;
    ensure!(receipt.body["state"] == "pending" && receipt.body["outcome"].is_null(), "{receipt:?}");

    system.start_worker(&[]).await?;
    system.drained().await?;
    let receipt = system.get(accepted.header("location")).await?;
    ensure!(receipt.body["state"] == "done" && receipt.body["outcome"] == "opened", "{receipt:?}");
    system.finish().await
}

async fn a_gateway_that_stops_answers_waiting_requests(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let request = system.update(&status_update("DNS", 1)).header("Prefer", "wait=60");
    let waiting = tokio::spawn(harness::answer(request));
    system.is_queued(ComponentId(1)).await?;
    let mut gateway = system.gateways.remove(0);
    gateway.signal(Signal::SIGTERM)?;
    let accepted = waiting.await??;
    ensure!(accepted.status == 202 && accepted.body["state"] == "pending", "{accepted:?}");
    ensure!(gateway.ended().await?.success(), "{}", gateway.log()?);

    system.start_worker(&[]).await?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1);
    system.finish().await
}

const FULL: &str = "the queue is full; nothing was queued";

/// Whether an update was refused. A queue is only said to be full if RabbitMQ tells within a second how much it has.
fn is_refusal(message: &str) -> bool {
    message.contains(FULL) || message.contains("the queue is not available; nothing was queued")
}

async fn a_full_queue_refuses(fixture: Arc<Fixture>) -> Result<()> {
    let settings = [("SDB_QUEUE_LIMIT", "5"), ("SDB_PARTITIONS", "1")];
    let mut system = System::prepared_with(&fixture, &settings).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let post = async || {
        let request = system.update(&status_update("DNS", 1)).header("Prefer", "respond-async");
        harness::answer(request).await
    };
    // A quorum queue may take a few more than its limit.
    let mut taken = 0;
    eventually("the queue is full", async || {
        let answer = post().await?;
        if answer.status == 202 {
            taken += 1;
            ensure!(taken < 50, "the queue never fills");
            return Ok(false);
        }
        let message = answer.body["message"].as_str().unwrap_or_default();
        let is_refused = answer.status == 503 && is_refusal(message);
        ensure!(is_refused && taken >= 5, "{taken} were taken, then {answer:?}");
        Ok(message.contains(FULL))
    })
    .await?;

    system.start_worker(&[]).await?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == taken);
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 200);
    system.finish().await
}

/// Posts until nothing is taken; returns the number of messages that were, each of 20 updates and some 25 KiB.
async fn fill_in_large_messages(system: &System) -> Result<i64> {
    let update = json!({ "name": "DNS", "impact": 1, "text": "\u{1f525}".repeat(255) });
    let updates = json!({ "updates": vec![update; 20] });
    let mut taken = 0;
    eventually("the queue is full", async || {
        let post = system.request_to(0, Method::POST, "/api/v1/updates").json(&updates);
        let post = post.bearer_auth(&system.token).header("Prefer", "respond-async");
        let answer = harness::answer(post).await?;
        let results = answer.body["results"].as_array().with_context(|| format!("{answer:?}"))?;
        if results.iter().any(|result| result["status"] == 503) {
            ensure!(results.iter().all(|r| is_refusal(&r.to_string())), "{results:?}");
            return Ok(results.iter().all(|r| r.to_string().contains(FULL)));
        }
        ensure!(results.iter().all(|result| result["status"] == 202), "{results:?}");
        taken += 1;
        ensure!(taken < 50, "the queue never fills");
        Ok(false)
    })
    .await?;
    Ok(taken)
}

async fn a_queue_that_is_full_by_bytes_refuses_too(fixture: Arc<Fixture>) -> Result<()> {
    let settings = [("SDB_QUEUE_LIMIT", "20"), ("SDB_PARTITIONS", "1")];
    let mut system = System::prepared_with(&fixture, &settings).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    // 20 times 16 KiB.
    let by_bytes = fill_in_large_messages(&system).await?;
    ensure!((10..18).contains(&by_bytes), "{by_bytes} messages were taken");
    system.start_worker(&[]).await?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == by_bytes * 20);
    let mut worker = system.workers.remove(0);
    worker.signal(Signal::SIGTERM)?;
    ensure!(worker.ended().await?.success(), "{}", worker.log()?);

    // Earlier queues count messages alone.
    system.worker_succeeds(&["topology", "change", "--arguments", "2"]).await?;
    eventually("updates are taken", async || {
        Ok(system.post_with_default_wait(&status_update("DNS", 1)).await?.status == 202)
    })
    .await?;
    let by_count = fill_in_large_messages(&system).await? + 1;
    ensure!(by_count >= 20, "{by_count} messages were taken");
    system.start_worker(&[]).await?;
    system.finish().await
}

async fn a_gateway_that_never_saw_a_catalogue_is_not_ready(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    // Nothing listens there.
    let nowhere = "postgresql://sd@127.0.0.1:1/none";
    system.start_gateway_unready(&[("SDB_DATABASE_URI", nowhere)]).await?;
    let ready = system.get("/readyz").await?;
    ensure!(ready.status == 503 && ready.body["status"] == "not ready", "{ready:?}");
    ensure!(system.get("/healthz").await?.status == 200);
    let refused = system.post_with_default_wait(&status_update("DNS", 1)).await?;
    ensure!(refused.status == 503, "{refused:?}");
    system.finish_with_parked()
}

async fn a_worker_that_is_asked_to_stop_ends_cleanly(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_dns(&fixture).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    let mut worker = system.workers.remove(0);
    worker.signal(Signal::SIGTERM)?;
    let status = worker.ended().await?;
    ensure!(status.success(), "{status}: {}", worker.log()?);
    // What comes meanwhile waits for the next worker.
    ensure!(system.post_with_default_wait(&status_update("DNS", 2)).await?.status == 202);
    system.start_worker(&[]).await?;
    system.finish().await
}

async fn a_gateway_that_is_asked_to_stop_answers_what_it_has(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_dns(&fixture).await?;
    // The request waits for its outcome, and the worker for this.
    let held = system.hold_scope().await?;
    let request =
        tokio::spawn(system.update(&status_update("DNS", 1)).header("Prefer", "wait=30").send());
    system.waits_for_a_lock().await?;
    let mut gateway = system.gateways.remove(0);
    gateway.signal(Signal::SIGTERM)?;
    eventually("the gateway has heard", async || Ok(gateway.log()?.contains("stopping"))).await?;
    held.rollback().await?;
    let answer = request.await??;
    ensure!(answer.status() == 201, "{answer:?}");
    let status = gateway.ended().await?;
    ensure!(status.success(), "{status}: {}", gateway.log()?);
    system.finish().await
}
