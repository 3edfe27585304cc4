//! What strangers can cost is bounded, as SECURITY.md says: connections, heads, bodies and memory. Lists
//! that are streamed have their tests with the lists, bodies and attributes with the answers, times in
//! `keep_alive`, open files in `files`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use harness::{Fixture, System, eventually_within, http, tests};

tests!(
    connections_beyond_the_most_wait_for_their_turn,
    a_head_has_at_most_100_headers_and_32_kib,
    no_body_is_read_before_the_token_was_checked,
    readers_of_many_lists_take_no_more_memory_than_there_is_for_lists,
);

const PROBE: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

async fn connections_beyond_the_most_wait_for_their_turn(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[("SDB_MAX_CONNECTIONS", "3")]).await?;
    // Connections of its own client are closed first, or one of them would be among the three.
    system.client = reqwest::Client::new();
    let connect = async || TcpStream::connect(&system.addresses[0]).await;
    let mut served = Vec::new();
    for _ in 0..3 {
        let mut stream = connect().await?;
        ensure!(http::ask(&mut stream, PROBE).await?.status == 200);
        served.push(stream);
    }
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = connect().await?;
        stream.write_all(PROBE.as_bytes()).await?;
        waiting.push(stream);
    }
    // Those that are served go on, and the others are neither refused nor served meanwhile.
    for stream in &mut served {
        ensure!(http::ask(stream, PROBE).await?.status == 200);
    }
    for stream in &mut waiting {
        let early = timeout(Duration::from_millis(100), stream.read_u8()).await;
        ensure!(early.is_err(), "one more than the most was served: {early:?}");
    }
    // Each that ends makes room for one.
    for (ending, mut stream) in served.into_iter().zip(waiting) {
        drop(ending);
        let answer = http::ask(&mut stream, "").await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    system.finish().await
}

async fn a_head_has_at_most_100_headers_and_32_kib(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    let with = |headers: &str| {
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
    };
    let many = |count: usize| (2..count).map(|n| format!("X-{n}: x\r\n")).collect::<String>();
    let large = |bytes: usize| format!("X: {}\r\n", "x".repeat(bytes - with("X: \r\n").len()));
    let cookies = "Cookie: x\r\n".repeat(50);
    for (headers, status) in [
        (many(100), 200),
        (many(101), 431),
        (many(60) + &cookies, 431),
        (large(32 * 1024 - 1), 200),
        (large(32 * 1024 + 1), 431),
        (large(60 * 1024), 431),
    ] {
        let got = http::exchange(&system.addresses[0], &with(&headers), false).await;
        let got = got.with_context(|| format!("{} bytes", headers.len()))?;
        ensure!(got.status == status, "{} bytes: {got:?}", headers.len());
    }
    // It is refused before its end comes, so that no more than that is held.
    let endless = with(&large(40 * 1024));
    let got = http::exchange(&system.addresses[0], endless.trim_end(), false).await?;
    ensure!(got.status == 431, "{got:?}");
    system.finish().await
}

async fn no_body_is_read_before_the_token_was_checked(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    for more in [
        "Content-Length: 1000\r\n",
        "Content-Length: 99999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 1000\r\nExpect: 100-continue\r\n",
    ] {
        for token in ["", "Authorization: Bearer garbage\r\n"] {
            // The body never comes.
            let head = format!(
                "POST /api/v1/component_status HTTP/1.1\r\nHost: x\r\n{token}\
                Content-Type: application/json\r\n{more}\r\n"
            );
            let got = http::exchange(&system.addresses[0], &head, false).await?;
            // Nor is it asked for: that would be another status.
            ensure!(got.status == 401, "{more:?}: {got:?}");
            ensure!(got.header("connection") == "close", "{more:?}: {got:?}");
        }
    }
    system.finish().await
}

/// Each of them asks for another list, and takes nothing of it.
async fn readers_of_many_lists_take_no_more_memory_than_there_is_for_lists(
    fixture: Arc<Fixture>,
) -> Result<()> {
    const READERS: usize = 160;
    const MIB: u64 = 1 << 20;
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    // One component with as many attributes, by each of which it is listed, with its incidents.
    let attributes: Vec<String> = (0..READERS).map(|number| format!("a{number}")).collect();
    let attributes: Vec<(&str, &str)> =
        attributes.iter().map(|name| (name.as_str(), "x")).collect();
    system.components(&[("DNS", &attributes)]).await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, start_date, end_date, system)
            VALUES ('Long', 1, '2024-01-01', '2024-01-02', false);
            INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
            SELECT id, start_date, repeat('x', 3400000), 'fixing' FROM incident;
            INSERT INTO incident_component_relation (incident_id, component_id)
            SELECT id, 1 FROM incident;
            ANALYZE",
        )
        .await?;
    let path = |number: usize| {
        format!("/api/v1/component_status?attribute_name=a{number}&attribute_value=x")
    };
    let one = system.get(&path(0)).await?;
    let length: u64 = one.header("content-length").parse()?;
    ensure!(one.status == 200 && length * READERS as u64 > 400 * MIB, "{length} bytes each");
    drop(one);
    let rest = system.gateways[0].memory()?;

    // No more at once than there are database connections: those would be refused for want of one.
    let (mut held, mut refused) = (Vec::new(), 0);
    let mut readers = stream::iter((0..READERS).map(|number| {
        let (address, path) = (&system.addresses[0], path(number));
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(4 << 10)?;
            let mut stream = socket.connect(address.parse()?).await?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
            let mut beginning = [0; 12];
            stream.read_exact(&mut beginning).await?;
            anyhow::Ok((beginning, stream))
        }
    }))
    .buffer_unordered(4);
    while let Some(reader) = readers.next().await {
        let (beginning, mut stream) = reader?;
        if &beginning == b"HTTP/1.1 503" {
            let refusal = http::next(&mut stream, &beginning).await?;
            ensure!(refusal.body.contains("Too many lists are being read"), "{refusal:?}");
            refused += 1;
            if refused == 3 {
                break;
            }
        } else {
            ensure!(&beginning == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&beginning));
            held.push(stream);
        }
    }
    drop(readers);
    let begun = held.len();
    let peak = system.gateways[0].peak_memory()?;
    eprintln!(
        "{begun} readers have lists of {} kB; memory: {} MiB before, {} MiB at most",
        length / 1024,
        rest / MIB,
        peak / MIB
    );
    ensure!(refused == 3, "{begun} readers have a list: nothing was refused");
    ensure!(peak > rest + 100 * MIB, "the lists are not in memory: {} MiB", peak / MIB);
    // Beside the lists: what the database sends for those that are being written, and the allocator's own.
    ensure!(peak < rest + (256 + 144) * MIB, "{} MiB", peak / MIB);
    // All that is small goes on.
    let small = system.get("/api/v1/incidents?active=true").await?;
    ensure!(small.status == 200, "{small:?}");
    // Who takes nothing is ended, and the memory is others'.
    eventually_within(Duration::from_secs(90), "lists are sent again", async || {
        let list = system.get(&path(READERS - 1)).await?;
        ensure!([200, 503].contains(&list.status), "{}", list.status);
        Ok(list.status == 200)
    })
    .await?;
    drop(held);
    let update = system.post(&json!({ "name": "Nobody", "impact": 1 })).await?;
    ensure!(update.status == 400, "{update:?}");
    system.finish().await
}
