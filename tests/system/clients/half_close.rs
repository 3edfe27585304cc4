//! Clients that close the direction in which they send, and clients that are gone.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use harness::{ADMIN, Fixture, System, answer, eventually, eventually_within, http, tests};

tests!(
    a_client_that_has_closed_its_direction_gets_its_answer,
    a_waiting_client_that_resets_its_connection_gives_up_its_place,
);

fn get(system: &System, version: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        system.token
    )
}

fn post(system: &System, more: &str, impact: u8) -> String {
    let body = json!({ "name": "DNS", "impact": impact }).to_string();
    format!(
        "POST /api/v1/component_status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{more}\
        Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        system.token,
        body.len()
    )
}

async fn a_client_that_has_closed_its_direction_gets_its_answer(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[ADMIN]).await?;
    system.start_gateway(&[ADMIN]).await?;
    system.components(&[("DNS", &[])]).await?;
    let address = system.addresses[0].clone();
    let ask = async |request: String| http::exchange(&address, &request, true).await;

    let opened = ask(post(&system, "Prefer: wait=30\r\n", 1)).await?;
    ensure!(opened.status == 201, "{opened:?}");
    let later = ask(post(&system, "Prefer: respond-async\r\n", 1)).await?;
    ensure!(later.status == 202, "{later:?}");
    // One that really waits: its worker stands still until the client has closed its direction.
    system.workers[0].signal(Signal::SIGSTOP)?;
    let mut waiting = TcpStream::connect(&address).await?;
    waiting.write_all(post(&system, "Prefer: wait=25\r\n", 2).as_bytes()).await?;
    waiting.shutdown().await?;
    let queued = "SELECT count(*) FROM sdb_inbox WHERE impact = 2";
    let metrics =
        async || Ok::<_, anyhow::Error>(ask(get(&system, "1.1", "/readyz")).await?.status);
    ensure!(metrics().await? == 200 && system.count(queued).await? == 0);
    ensure!(!http::is_closed(&waiting), "the connection was given up");
    system.workers[0].signal(Signal::SIGCONT)?;
    let raised = http::rest(&mut waiting).await?;
    ensure!(raised.status == 201 && raised.body.contains("\"impact\":2"), "{raised:?}");

    let receipt = format!("/api/v1/updates/{}", raised.header("update-id"));
    for version in ["1.0", "1.1"] {
        for path in ["/api/v1/incidents", "/api/v1/component_status", &receipt, "/healthz"] {
            let got = ask(get(&system, version, path)).await?;
            ensure!(got.status == 200 && got.body.len() > 2, "{path}: {got:?}");
        }
        // Refusals, too.
        let refused = ask(get(&system, version, "/api/v1/incidents?limit=0")).await?;
        ensure!(refused.status == 422, "{refused:?}");
    }
    // Two requests at once, and no more.
    let both = get(&system, "1.1", "/healthz") + &get(&system, "1.1", "/readyz");
    let both = ask(both).await?;
    ensure!(both.status == 200 && both.body.contains("HTTP/1.1 200 OK"), "{both:?}");
    // A body that ends early is still none.
    let cut = post(&system, "", 3);
    let cut = ask(cut[..cut.len() - 1].to_owned()).await?;
    ensure!(cut.status == 400, "{cut:?}");

    // A list that is too large to be held.
    system
        .sql(
            "INSERT INTO incident (text, impact, start_date, end_date, system)
            SELECT repeat('x', 200), 1, timestamp '2024-01-01', timestamp '2024-01-02', false
            FROM generate_series(1, 40000)",
        )
        .await?;
    for version in ["1.0", "1.1"] {
        let streamed = ask(get(&system, version, "/api/v1/incidents")).await?;
        let end = if version == "1.0" { "]" } else { "]\r\n0\r\n\r\n" };
        ensure!(streamed.status == 200 && streamed.body.len() > 8 << 20, "{}", streamed.body.len());
        ensure!(streamed.body.ends_with(end), "HTTP/{version}: the list is not whole");
    }

    for process in [&system.workers[0], &system.gateways[0]] {
        let log = process.log()?;
        let said = log.lines().find(|line| line.contains("serving health and metrics"));
        let said: serde_json::Value = serde_json::from_str(said.context("no admin address")?)?;
        let admin = said["address"].as_str().context("no address")?;
        for path in ["/healthz", "/readyz", "/metrics"] {
            let got = http::exchange(admin, &get(&system, "1.1", path), true).await?;
            ensure!(got.status == 200, "{admin}{path}: {got:?}");
        }
    }
    system.finish().await
}

async fn a_waiting_client_that_resets_its_connection_gives_up_its_place(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[("SDB_MAX_IN_FLIGHT", "1")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let other = async || {
        let update = system.update(&json!({ "name": "DNS", "impact": 1 }));
        Ok::<_, anyhow::Error>(answer(update.header("Prefer", "respond-async")).await?.status)
    };
    for closes in [false, true] {
        let mut waiting = TcpStream::connect(&system.addresses[0]).await?;
        waiting.write_all(post(&system, "Prefer: wait=30\r\n", 1).as_bytes()).await?;
        if closes {
            waiting.shutdown().await?;
        }
        // It has the only place before another one asks for it.
        eventually("the only place is taken", async || {
            let metrics = get(&system, "1.0", "/metrics");
            let metrics = http::exchange(&system.addresses[0], &metrics, false).await?;
            Ok(metrics.body.contains("sdb_updates_in_flight 1\n"))
        })
        .await?;
        ensure!(other().await? == 503, "the place of one that waits was given away");
        waiting.set_zero_linger()?;
        drop(waiting);
        // Long before its wait is over.
        eventually_within(Duration::from_secs(15), "the place is free", async || {
            Ok(other().await? == 202)
        })
        .await
        .with_context(|| format!("closed its direction first: {closes}"))?;
    }
    system.start_worker(&[]).await?;
    system.finish().await
}
