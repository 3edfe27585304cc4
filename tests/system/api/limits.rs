//! Limits of what a request may have and of what a token may send.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::json;

use super::{is_error, post_bytes};
use harness::{
    CLAIM, COMPONENT_STATUS, Fixture, SECRET, System, answer, eventually, status_update, tests,
    token,
};

tests!(
    a_request_that_is_too_large_is_refused,
    a_connection_that_ends_with_a_refusal_is_announced_as_closing,
    a_token_that_sends_too_much_gets_429,
);

/// Sends bytes and returns all that comes back until the connection ends.
async fn raw(system: &System, request: Vec<u8>) -> Result<String> {
    let address = system.addresses[0].clone();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // The gateway may close before it has read all; what it said until then counts.
        let sent = stream.write_all(&request);
        let mut said = Vec::new();
        let received = stream.read_to_end(&mut said);
        ensure!(
            !said.is_empty() || sent.is_err() || received.is_ok(),
            "neither an answer nor an end: {sent:?}, {received:?}"
        );
        Ok(String::from_utf8_lossy(&said).into_owned())
    })
    .await?
}

async fn a_request_that_is_too_large_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let json = Some("application/json");
    let padded = |length: usize| {
        let update = status_update("DNS", 1).to_string();
        let padding = " ".repeat(length - update.len());
        update + &padding
    };
    for length in [64 * 1024 + 1, 128 * 1024, 1024 * 1024] {
        let answer = post_bytes(&system, json, padded(length)).await?;
        is_error(&answer, 413).with_context(|| format!("{length} bytes"))?;
    }
    let head = |more: &str| {
        format!(
            "POST {COMPONENT_STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
            Content-Type: application/json\r\nConnection: close\r\n{more}\r\n",
            system.token
        )
    };
    // In chunks, without a length.
    let body = padded(64 * 1024 + 1);
    let mut chunked = head("Transfer-Encoding: chunked\r\n");
    for chunk in body.as_bytes().chunks(10_000) {
        chunked.push_str(&format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk)?));
    }
    chunked.push_str("0\r\n\r\n");
    let said = raw(&system, chunked.into_bytes()).await?;
    ensure!(said.starts_with("HTTP/1.1 413 ") && said.contains("\"code\":413"), "{said}");
    // It need not arrive whole.
    let begun = head("Content-Length: 99999999999\r\n") + &body;
    let said = raw(&system, begun.into_bytes()).await?;
    ensure!(said.starts_with("HTTP/1.1 413 "), "{said}");

    // Heads: one long header, many headers, a long address.
    let long = head(&format!("X-Long: {}\r\nContent-Length: 0\r\n", "x".repeat(100_000)));
    let many: String = (0..200).map(|number| format!("X-{number}: x\r\n")).collect();
    let many = head(&format!("{many}Content-Length: 0\r\n"));
    let address = format!(
        "GET /api/v1/incidents?{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "x".repeat(100_000)
    );
    for request in [long, many, address] {
        let said = raw(&system, request.into_bytes()).await?;
        let refused =
            ["HTTP/1.1 431 ", "HTTP/1.1 414 "].iter().any(|status| said.starts_with(status));
        ensure!(refused || said.is_empty(), "{said}");
    }
    for nonsense in
        ["nonsense\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\0\0\0\r\n\r\n"]
    {
        let said = raw(&system, nonsense.as_bytes().to_vec()).await?;
        ensure!(said.starts_with("HTTP/1.1 4") || said.is_empty(), "{nonsense:?}: {said}");
    }
    // A body that ends early is no update.
    drop(
        raw_and_leave(
            &system,
            head("Content-Length: 500\r\n") + &status_update("DNS", 1).to_string(),
        )
        .await?,
    );

    // Exactly 64 KiB is not too large.
    let answer = post_bytes(&system, json, padded(64 * 1024)).await?;
    ensure!(answer.status == 201 && answer.body["id"] == 1, "{answer:?}");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1);
    system.finish().await
}

/// Who keeps connections would otherwise send the next update on one that is about to end, and
/// never learn what became of it (RFC 9112, 9.6).
async fn a_connection_that_ends_with_a_refusal_is_announced_as_closing(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let length = 1024 * 1024;
    for (token, status) in [(system.token.as_str(), 413), ("garbage", 401)] {
        let update = format!(
            "POST {COMPONENT_STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
            Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let said = raw(&system, (update + &" ".repeat(length) + next).into_bytes()).await?;
        ensure!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        let head = said.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        let goes_on = said.contains("{\"status\":\"ok\"}");
        ensure!(goes_on || head.contains("connection: close"), "it just ends after {said}");
    }
    system.finish().await
}

/// Sends bytes and says no more.
async fn raw_and_leave(system: &System, request: String) -> Result<String> {
    let address = system.addresses[0].clone();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        ensure!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
        Ok(said)
    })
    .await?
}

async fn a_token_that_sends_too_much_gets_429(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_RATE_LIMIT", "2")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let other = token(SECRET, &json!({ CLAIM: "another" }));
    let post = |token: &str| {
        let request = system.request_to(0, Method::POST, COMPONENT_STATUS).bearer_auth(token);
        answer(request.header("Prefer", "wait=20").json(&status_update("DNS", 1)))
    };
    let (mut taken, mut refused) = (0, None);
    // Several at a time: one after the other they may be slower than the rate.
    while refused.is_none() {
        for answer in try_join_all((0..8).map(|_| post(&system.token))).await? {
            match answer.status {
                429 => refused = Some(answer),
                200 | 201 => taken += 1,
                _ => bail!("{answer:?}"),
            }
        }
        ensure!(taken < 1_000, "nothing is refused");
    }
    let refused = refused.context("nothing is refused")?;
    ensure!(taken >= 2, "only {taken} were taken");
    is_error(&refused, 429)?;
    ensure!(refused.header("retry-after") == "1", "{refused:?}");
    // Neither another token nor a reader meets the limit.
    let answer = post(&other).await?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(system.get("/api/v1/incidents").await?.status == 200);
    // It may send again soon, and what was refused was not queued.
    eventually("the token may send again", async || {
        let answer = post(&system.token).await?;
        taken += i64::from(answer.status == 200);
        Ok(answer.status == 200)
    })
    .await?;
    system.drained().await?;
    let queued = system.count("SELECT count(*) FROM sdb_inbox").await?;
    ensure!(queued == taken + 1, "{queued} were queued, {taken} and one taken");
    system.finish().await
}
