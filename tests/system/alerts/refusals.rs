//! Requests with alerts that are refused as a whole.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::json;

use super::{ALERTS, BOTH, WEBHOOK, incidents, metrics, of, send, send_to};
use harness::{Answer, Fixture, System, answer, eventually, tests};

tests!(
    a_body_of_another_form_is_refused,
    without_a_token_nothing_is_read,
    a_body_that_is_too_large_is_refused,
    what_can_not_be_queued_is_answered_503,
    a_request_that_was_queued_in_part_is_sent_again,
    alerts_are_refused_until_workers_read_reports,
);

const MIB: usize = 1024 * 1024;

async fn a_body_of_another_form_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    let post = |path: &str| system.request_to(0, Method::POST, path).bearer_auth(&system.token);
    let typed = |path: &str| post(path).header("Content-Type", "application/json");
    let list = json!([of("DNS", "Slow")]).to_string();
    let webhook = json!({ "version": "4", "alerts": [of("DNS", "Slow")] }).to_string();
    for (path, good, other) in [(ALERTS, &list, &webhook), (WEBHOOK, &webhook, &list)] {
        for body in ["", "{", "5", "null", other, &good[..good.len() - 1], "\"\\ud800\""] {
            let refused = answer(typed(path).body(body.to_owned())).await?;
            ensure!(refused.status == 400, "{body}: {refused:?}");
            let message = refused.body["message"].as_str().context("no message")?;
            ensure!(message.contains("nothing was queued"), "{message}");
        }
        ensure!(answer(post(path).body(good.clone())).await?.status == 415);
        let compressed = typed(path).header("Content-Encoding", "gzip").body(good.clone());
        ensure!(answer(compressed).await?.status == 415);
        let unclear = typed(&format!("{path}?dry_run=perhaps")).body(good.clone());
        let unclear = answer(unclear).await?;
        ensure!(unclear.body["errors"]["query"]["dry_run"].is_array(), "{unclear:?}");
        ensure!(unclear.status == 422, "{unclear:?}");
        let read = answer(system.request_to(0, Method::GET, path)).await?;
        ensure!(read.status == 405, "{read:?}");
    }
    let newer = json!({ "version": "5", "alerts": [] }).to_string();
    let newer = answer(typed(WEBHOOK).body(newer)).await?;
    let message = "the webhook's version is `5`, and only `4` is known; nothing was queued";
    ensure!(newer.status == 400 && newer.body["message"] == message, "{newer:?}");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 0);
    system.finish().await
}

async fn without_a_token_nothing_is_read(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    for path in BOTH {
        for request in [
            system.request_to(0, Method::POST, path),
            system.request_to(0, Method::POST, path).bearer_auth("x"),
            system.request_to(0, Method::POST, path).basic_auth("prometheus", Some(&system.token)),
        ] {
            let refused =
                answer(request.header("Content-Type", "application/json").body("{")).await?;
            ensure!(refused.status == 401, "{refused:?}");
            ensure!(refused.header("www-authenticate") == "Bearer", "{refused:?}");
        }
    }
    system.finish().await
}

async fn a_body_that_is_too_large_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let mut alert = of("DNS", "Slow");
    alert["annotations"] = json!({ "description": "x".repeat(4 * MIB - 1024) });
    for path in BOTH {
        // One alert may take all the room.
        ensure!(answer(send(&system, path, &[alert.clone()])).await?.status == 200);
        let mut large = alert.clone();
        large["annotations"]["more"] = json!("x".repeat(2048));
        let refused = answer(send(&system, path, &[large])).await?;
        ensure!(refused.status == 413, "{refused:?}");
        let refused = answer(send(&system, path, &vec![json!({}); 20_001])).await?;
        let message = refused.body["message"].as_str().context("no message")?;
        ensure!(refused.status == 413 && message.contains("max_alerts"), "{refused:?}");
        let most = answer(send(&system, path, &vec![json!({}); 20_000])).await?;
        ensure!(most.status == 200, "{most:?}");
    }
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 2);
    metrics(&system, 0).await?.is("sdb_alerts_unmapped_total", &[], 40_000)?;
    system.finish().await
}

async fn what_can_not_be_queued_is_answered_503(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let no_broker = ("SDB_AMQP_URI", "amqp://127.0.0.1:1");
    system.start_gateway_unready(&[no_broker]).await?;
    system.catalogue_seen().await?;
    system
        .start_gateway_unready(&[no_broker, ("SDB_DATABASE_URI", "postgresql://x:y@127.0.0.1:1/z")])
        .await?;
    for path in BOTH {
        for (gateway, says) in [
            (1, "2 of 2 alerts were not queued, or that is unknown; send all of them again"),
            (2, "PostgreSQL's clock was not read yet; nothing was queued"),
        ] {
            let alerts = [of("DNS", "Slow"), json!({}), of("DNS", "Down")];
            let refused = answer(send_to(&system, gateway, path, &alerts)).await?;
            ensure!(refused.status == 503, "{refused:?}");
            ensure!(refused.header("retry-after") == "1", "{refused:?}");
            let message = refused.body["message"].as_str().context("no message")?;
            ensure!(message.starts_with(says), "{message}");
        }
    }
    let refused = metrics(&system, 1).await?;
    refused.is("sdb_updates_refused_total", &["reason=\"rabbitmq_absent\""], 4)?;
    refused.is("sdb_alerts_total", &[], 0)?;
    system.finish().await
}

/// The partition of one of two components is full.
async fn a_request_that_was_queued_in_part_is_sent_again(fixture: Arc<Fixture>) -> Result<()> {
    let settings = [("SDB_QUEUE_LIMIT", "20"), ("SDB_PARTITIONS", "2")];
    let mut system = System::prepared_with(&fixture, &settings).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let message = |refused: &Answer| -> Result<String> {
        ensure!(refused.status == 503, "{refused:?}");
        Ok(refused.body["message"].as_str().context("no message")?.to_owned())
    };
    let mut accepted = 0;
    // A gateway that does not learn in a second whether a queue is full says something else.
    eventually("the queue is full", async || {
        let sent = answer(send(&system, ALERTS, &[of("DNS", "Slow")])).await?;
        if sent.status == 200 {
            accepted += 1;
            ensure!(accepted < 100, "the queue never fills");
            return Ok(false);
        }
        Ok(message(&sent)?.contains("the queue is full"))
    })
    .await?;
    let alerts = [of("DNS", "Down"), of("CDN", "Down")];
    for _ in 0..2 {
        eventually("one of both is refused since its queue is full", async || {
            let message = message(&answer(send(&system, WEBHOOK, &alerts)).await?)?;
            ensure!(message.starts_with("1 of 2 alerts were not queued"), "{message}");
            accepted += 1;
            Ok(message.contains("the queue is full"))
        })
        .await?;
    }
    metrics(&system, 0).await?.is("sdb_alerts_total", &["result=\"accepted\""], accepted)?;
    system.start_worker(&[]).await?;
    eventually("the whole of it is taken", async || {
        Ok(answer(send(&system, WEBHOOK, &alerts)).await?.status == 200)
    })
    .await?;
    system.drained().await?;
    let applied = "SELECT string_agg(outcome, ' ' ORDER BY position) FROM sdb_inbox
        WHERE component_id = 2";
    let applied = system.texts(applied).await?.pop().context("nothing was applied")?;
    // The first one counted, and its repetitions changed nothing.
    let (first, repeated) = applied.split_once(' ').context("it was applied once")?;
    ensure!(["opened", "joined"].contains(&first), "{applied}");
    ensure!(repeated.split(' ').all(|outcome| outcome == "unchanged"), "{applied}");
    let reports = "SELECT count(*) FROM sdb_report WHERE is_live";
    ensure!(system.count(reports).await? == 3);
    ensure!(incidents(&system).await?.len() == 1);
    system.finish().await
}

/// An older version of messages is recorded, as after an upgrade.
async fn alerts_are_refused_until_workers_read_reports(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    system.sql("UPDATE sdb_topology SET wire = 2").await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    let alerts = [of("DNS", "Slow"), of("DNS", "Down")];
    for path in BOTH {
        let refused = answer(send(&system, path, &alerts)).await?;
        ensure!(refused.status == 503, "{refused:?}");
        let message = refused.body["message"].as_str().context("no message")?;
        ensure!(message.starts_with("2 of 2 alerts were not queued"), "{message}");
        ensure!(message.contains("alerts need version 3 of messages"), "{message}");
        ensure!(message.contains("run `worker topology change --wire 3`"), "{message}");
        // What would become of them is shown before.
        let planned = answer(send(&system, &format!("{path}?dry_run=true"), &alerts)).await?;
        let updates = planned.body["updates"].as_array().map(Vec::len);
        ensure!(planned.status == 200 && updates == Some(2), "{planned:?}");
    }
    metrics(&system, 0).await?.is("sdb_updates_refused_total", &[], 4)?;
    system.worker_succeeds(&["topology", "change", "--wire", "3"]).await?;
    for path in BOTH {
        eventually("the gateway takes alerts", async || {
            let taken = answer(send(&system, path, &alerts)).await?;
            ensure!([200, 503].contains(&taken.status), "{taken:?}");
            Ok(taken.status == 200)
        })
        .await?;
    }
    system.drained().await?;
    ensure!(incidents(&system).await? == ["Slow: DNS"]);
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 4);
    system.finish().await
}
