//! What bounds many updates at once: rates, places in flight, memory, and clients that are gone.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::select_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{PATH, many, many_to, results, statuses, update};
use harness::{Fixture, System, answer, eventually, eventually_within, http, tests};

tests!(
    updates_beyond_the_rate_are_results,
    updates_without_a_place_are_results,
    a_client_that_is_gone_gives_its_places_back,
    bodies_take_no_more_memory_than_there_is,
    updates_and_requests_are_counted,
);

async fn updates_beyond_the_rate_are_results(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    // A second's worth at once, and after that one in 200 ms.
    system.start_gateway(&[("SDB_RATE_LIMIT", "5")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let mut updates = vec![update("DNS", 1); 50];
    // What is wrong counts, as it does alone.
    updates[1] = json!({});
    let request = many_to(&system, 1, &updates).header("Prefer", "wait=20");
    let results = results(request).await?;
    ensure!(statuses(&results)[..5] == [201, 422, 200, 200, 200], "{results:?}");
    for result in &results[5..] {
        ensure!(result["status"] == 429 && result["id"].is_null(), "{result}");
        ensure!(result["error"].as_str().is_some_and(|e| e.contains("nothing was queued")));
    }
    // One gateway's limit is its own.
    let other = super::results(many(&system, &updates).header("Prefer", "wait=20")).await?;
    ensure!(statuses(&other)[2..] == [200; 48], "{other:?}");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 53);
    system.finish().await
}

async fn updates_without_a_place_are_results(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[("SDB_MAX_IN_FLIGHT", "4")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let mut updates = vec![update("DNS", 1); 6];
    // What is refused takes no place.
    updates.splice(2..2, [json!({}), json!(5), update("DNS", 0)]);
    for first in [201, 200] {
        let request = many_to(&system, 1, &updates).header("Prefer", "wait=20");
        let results = results(request).await?;
        let expected = [first, 200, 422, 422, 400, 200, 200, 503, 503];
        ensure!(statuses(&results) == expected, "{results:?}");
        let error = results[8]["error"].as_str().unwrap_or_default();
        ensure!(error.contains("in flight") && error.contains("nothing was queued"), "{error}");
    }
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 8);
    system.finish().await
}

/// The bytes of a request with a body of its own.
fn bytes(system: &System, more: &str, body: &str, announced: usize) -> Vec<u8> {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{more}\
        Content-Type: application/json\r\nContent-Length: {announced}\r\n\r\n{body}",
        system.token
    )
    .into_bytes()
}

async fn metric(system: &System, line: &str) -> Result<f64> {
    let text = answer(system.request_to(0, Method::GET, "/metrics")).await?.body;
    let text = text.as_str().context("no text")?;
    let found = text.lines().find_map(|each| each.strip_prefix(line));
    Ok(found.with_context(|| format!("no {line}"))?.trim().parse()?)
}

async fn a_client_that_is_gone_gives_its_places_back(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let first = many(&system, &[update("DNS", 1)]).header("Prefer", "wait=20");
    ensure!(statuses(&results(first).await?) == [201]);
    system.workers[0].signal(Signal::SIGSTOP)?;
    let updates: Vec<Value> = (0..40).map(|n| update(["DNS", "CDN"][n % 2], 2)).collect();
    let body = json!({ "updates": updates }).to_string();
    let mut client = TcpStream::connect(&system.addresses[0]).await?;
    client.write_all(&bytes(&system, "Prefer: wait=30\r\n", &body, body.len())).await?;
    let in_flight = async || metric(&system, "sdb_updates_in_flight ").await;
    let accepted = async || metric(&system, "sdb_updates_accepted_total ").await;
    eventually("all are queued", async || Ok(accepted().await? == 41.0)).await?;
    ensure!(in_flight().await? == 40.0, "{}", in_flight().await?);
    // As a client that gives up: it resets the connection.
    client.set_zero_linger()?;
    drop(client);
    let limit = Duration::from_secs(20);
    eventually_within(limit, "the places are free", async || Ok(in_flight().await? == 0.0)).await?;
    system.workers[0].signal(Signal::SIGCONT)?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 41);
    system.finish().await
}

async fn bodies_take_no_more_memory_than_there_is(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let mib = 1024 * 1024;
    // One more than there is memory for: whichever comes last is refused, and the others wait.
    let mut slow = Vec::new();
    for _ in 0..17 {
        let mut client = TcpStream::connect(&system.addresses[0]).await?;
        client.write_all(&bytes(&system, "", &" ".repeat(mib - 1), mib)).await?;
        slow.push(Box::pin(async move { http::rest(&mut client).await }));
    }
    let (refused, _, others) = select_all(slow).await;
    let refused = refused?;
    ensure!(refused.status == 503 && refused.body.contains("nothing was queued"), "{refused:?}");
    ensure!(refused.header("retry-after") == "1", "{refused:?}");
    ensure!(refused.header("connection") == "close", "{refused:?}");
    // Those who send one at a time have places of their own.
    ensure!(system.post(&update("DNS", 1)).await?.status == 201);
    drop(others);
    eventually("it was given back", async || {
        Ok(answer(many(&system, &[update("DNS", 1)])).await?.status == 200)
    })
    .await?;
    let refused =
        metric(&system, "sdb_updates_refused_total{reason=\"too_many_in_flight\"} ").await?;
    ensure!(refused >= 1.0, "{refused}");
    system.finish().await
}

async fn updates_and_requests_are_counted(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let updates = [update("DNS", 1), update("DNS", 1), update("DNS", 2), json!({})];
    for _ in 0..3 {
        results(many(&system, &updates).header("Prefer", "wait=20")).await?;
    }
    let labels = "{route=\"/api/v1/updates\",method=\"POST\",status=\"200\"} ";
    let answers = metric(&system, &format!("sdb_http_requests_total{labels}")).await?;
    ensure!(answers == 3.0, "{answers}");
    for (line, count) in [
        ("sdb_updates_accepted_total ", 9.0),
        ("sdb_updates_answered_total{answer=\"opened\"} ", 1.0),
        ("sdb_updates_answered_total{answer=\"raised\"} ", 1.0),
        ("sdb_updates_answered_total{answer=\"unchanged\"} ", 7.0),
    ] {
        ensure!(metric(&system, line).await? == count, "{line}{}", metric(&system, line).await?);
    }
    system.finish().await
}
