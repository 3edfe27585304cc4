//! Large lists are streamed: to whom, for how long, and at whose expense.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{CATALOGUE, ask, get, ids};
use harness::{COMPONENT_STATUS, Fixture, INCIDENTS, System, eventually, eventually_within, tests};

tests!(
    a_large_list_is_streamed_whole,
    a_reader_that_stops_keeps_others_from_large_lists_alone,
    a_reader_that_takes_nothing_is_ended,
    a_large_list_that_nobody_reads_on_leaves_no_statement,
    a_slow_reader_holds_no_snapshot_and_is_cut_off,
);

const MANY: usize = 30_000;

/// So many incidents of the first component, with two updates each: some 30 MB that can't be
/// compressed to less than half.
async fn many(system: &System) -> Result<()> {
    incidents(system, MANY).await
}

/// That many of the same.
async fn incidents(system: &System, many: usize) -> Result<()> {
    system
        .sql(&format!(
            "INSERT INTO incident (text, impact, start_date, system)
            SELECT 'Incident ' || n, 1, timestamp '2024-01-01' + make_interval(mins => n), false
            FROM generate_series(1, {many}) AS n;
            INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
            SELECT n, timestamp '2024-01-01' + make_interval(mins => n + part),
                (SELECT string_agg(md5(n || '.' || part || '.' || piece), '')
                    FROM generate_series(1, 14) AS piece), 'fixing'
            FROM generate_series(1, {many}) AS n, generate_series(1, 2) AS part;
            INSERT INTO incident_component_relation SELECT id, 1 FROM incident;
            ANALYZE;"
        ))
        .await
}

async fn a_large_list_is_streamed_whole(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..2]).await?;
    many(&system).await?;
    let newest_first: Vec<i64> = (1..=MANY as i64).rev().collect();
    for path in [INCIDENTS, COMPONENT_STATUS] {
        let plain = get(&system, path, &[]).await?;
        ensure!(plain.status == 200 && plain.bytes.len() > 4 << 20, "{}", plain.bytes.len());
        ensure!(plain.header("content-encoding").is_empty(), "{:?}", plain.headers);
        // Streamed: the length is not known before.
        ensure!(plain.header("content-length").is_empty(), "{:?}", plain.headers);
        let list: Value = serde_json::from_slice(&plain.bytes)?;
        let incidents = if path == INCIDENTS { &list } else { &list[0]["incidents"] };
        ensure!(ids(incidents) == newest_first, "{path} is not whole");
        let updates = incidents.as_array().into_iter().flatten().map(|i| i["updates"].as_array());
        ensure!(updates.flatten().all(|updates| updates.len() == 2), "updates are missing");
        if path == COMPONENT_STATUS {
            ensure!(list[1]["id"] == 2 && list[1]["incidents"] == json!([]), "{}", list[1]);
        }

        let gzip = get(&system, path, &[("Accept-Encoding", "gzip")]).await?;
        ensure!(gzip.status == 200 && gzip.header("content-encoding") == "gzip");
        ensure!(gzip.bytes.len() > 4 << 20, "{path} is not large: {}", gzip.bytes.len());
        ensure!(gzip.decoded()? == plain.bytes, "{path}: another list when compressed");
        for (list, coding) in [(&plain, "identity"), (&gzip, "gzip")] {
            let tag = list.header("etag");
            ensure!(!tag.is_empty() && list.header("vary") == "Accept-Encoding");
            let known = [("Accept-Encoding", coding), ("If-None-Match", tag)];
            ensure!(get(&system, path, &known).await?.status == 304);
            let head = ask(&system, Method::HEAD, path, &[("Accept-Encoding", coding)]).await?;
            ensure!(head.status == 200 && head.bytes.is_empty() && head.header("etag") == tag);
        }
    }
    // A page of it is small.
    let page = get(&system, "/api/v1/incidents?limit=1000", &[]).await?;
    ensure!(!page.header("content-length").is_empty(), "{:?}", page.headers);
    system.finish().await
}

/// Asks for a list and reads no more than its beginning.
fn begin_to_read(address: &str, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut beginning = [0; 12];
    stream.read_exact(&mut beginning)?;
    ensure!(&beginning == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&beginning));
    Ok(stream)
}

async fn a_reader_that_stops_keeps_others_from_large_lists_alone(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_LISTS", "1")]).await?;
    system.components(&CATALOGUE[..2]).await?;
    many(&system).await?;
    let whole = get(&system, INCIDENTS, &[]).await?;
    ensure!(whole.status == 200 && whole.bytes.len() > 20 << 20, "{}", whole.bytes.len());
    let open = async || {
        let address = system.addresses[0].clone();
        tokio::task::spawn_blocking(move || begin_to_read(&address, INCIDENTS)).await?
    };
    // The place of the list before is free once its connection knows that it ended.
    let mut slow = None;
    eventually("there is a place", async || {
        slow = open().await.ok();
        Ok(slow.is_some())
    })
    .await?;
    let mut slow = slow.context("no reader")?;

    for (path, coding) in [
        (INCIDENTS, "identity"),
        (INCIDENTS, "gzip"),
        (COMPONENT_STATUS, "identity"),
        (COMPONENT_STATUS, "gzip"),
    ] {
        let refused = get(&system, path, &[("Accept-Encoding", coding)]).await?;
        ensure!(refused.status == 503, "{path}, {coding}: {}", refused.status);
        ensure!(refused.header("retry-after").parse::<u32>().is_ok(), "{:?}", refused.headers);
        let body: Value = serde_json::from_slice(&refused.decoded()?)?;
        ensure!(body["code"] == 503 && body["status"] == "Service Unavailable", "{body}");
    }
    // All that is small goes on.
    let page = system.get("/api/v1/incidents?limit=5").await?;
    ensure!(page.status == 200 && ids(&page.body).len() == 5, "{page:?}");
    let other =
        system.get("/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R2");
    ensure!(other.await?.body["id"] == 2);
    let known = [("If-None-Match", whole.header("etag"))];
    ensure!(get(&system, INCIDENTS, &known).await?.status == 304);
    let region = json!([{ "name": "region", "value": "R2" }]);
    let posted = system.post(&json!({ "name": "DNS", "impact": 3, "attributes": region })).await?;
    ensure!(posted.status == 201, "{posted:?}");
    eventually("the gateway is ready", async || {
        Ok(system.get("/readyz").await?.body["status"] == "ready")
    })
    .await?;

    // When it reads on, it gets the rest of what it began to read.
    let rest = tokio::task::spawn_blocking(move || -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest)?;
        Ok(rest)
    })
    .await??;
    ensure!(rest.ends_with(b"]\r\n0\r\n\r\n"), "the list is cut off");
    ensure!(rest.len() > whole.bytes.len(), "the list is not whole");
    // And then it is another one's turn, also when a reader leaves in the middle.
    for _ in 0..2 {
        let mut reader = None;
        eventually("there is a place again", async || {
            reader = open().await.ok();
            Ok(reader.is_some())
        })
        .await?;
        drop(reader);
    }
    eventually("large lists are sent again", async || {
        let list = get(&system, COMPONENT_STATUS, &[]).await?;
        ensure!([200, 503].contains(&list.status), "{}", list.status);
        Ok(list.status == 200 && serde_json::from_slice::<Value>(&list.bytes)?.is_array())
    })
    .await?;
    system.finish().await
}

async fn a_reader_that_takes_nothing_is_ended(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_LISTS", "1")]).await?;
    system.components(&CATALOGUE[..2]).await?;
    many(&system).await?;
    let address = system.addresses[0].clone();
    let mut slow =
        tokio::task::spawn_blocking(move || begin_to_read(&address, INCIDENTS)).await??;
    ensure!(get(&system, COMPONENT_STATUS, &[]).await?.status == 503, "it has no place");
    // It gets 30 s; its place is another one's then, though it neither reads nor leaves.
    eventually_within(Duration::from_secs(60), "large lists are sent again", async || {
        let list = get(&system, COMPONENT_STATUS, &[]).await?;
        ensure!([200, 503].contains(&list.status), "{}", list.status);
        Ok(list.status == 200)
    })
    .await?;
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        // What was sent to it before is there still; whether its end is a reset does not matter.
        slow.read_to_end(&mut rest).map(drop).or_else(|error| {
            let ended = error.kind() == std::io::ErrorKind::ConnectionReset;
            if ended { Ok(()) } else { Err(error) }
        })?;
        anyhow::Ok(rest)
    })
    .await??;
    ensure!(!rest.ends_with(b"0\r\n\r\n"), "a list that was ended looks whole");
    system.finish().await
}

/// The server processes that read lists at this moment. PostgreSQL shows the first 1,024 bytes of a
/// statement, and so not where the rows come from.
async fn reading(system: &System) -> Result<Vec<i32>> {
    let query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'gateway' AND state = 'active' AND query LIKE '%update_statuses%'";
    Ok(sqlx::query_scalar(query).fetch_all(&system.database).await?)
}

/// Whether this server process is there, at work or idle.
async fn exists(system: &System, pid: i32) -> Result<bool> {
    let query = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    Ok(system.count(&query).await? > 0)
}

async fn a_large_list_that_nobody_reads_on_leaves_no_statement(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..2]).await?;
    // More than is read ahead for a reader.
    incidents(&system, 3 * MANY).await?;
    // More than once: which of the two ends is noticed first is left to chance.
    for path in
        [INCIDENTS, COMPONENT_STATUS, INCIDENTS, COMPONENT_STATUS, INCIDENTS, COMPONENT_STATUS]
    {
        let address = system.addresses[0].clone();
        let reader = tokio::task::spawn_blocking(move || begin_to_read(&address, path)).await??;
        let mut pids = Vec::new();
        eventually("the list is being read", async || {
            pids = reading(&system).await?;
            Ok(!pids.is_empty())
        })
        .await?;
        ensure!(pids.len() == 1, "{path}: {pids:?}");
        drop(reader);
        // Its connection is closed: in the pool, all that nobody wants would have to be read first.
        eventually("the statement is given up", async || Ok(!exists(&system, pids[0]).await?))
            .await
            .with_context(|| path.to_owned())?;
    }
    system.finish().await
}

/// Reads a list at 640 kB/s, to its end; returns what came, and how it ended.
fn read_slowly(address: &str, version: &str) -> Result<(Vec<u8>, ErrorKind)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {INCIDENTS} HTTP/{version}\r\nHost: x\r\n\r\n")?;
    let (mut got, mut some) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match stream.read(&mut some) {
            Ok(0) => return Ok((got, ErrorKind::UnexpectedEof)),
            Ok(bytes) => got.extend_from_slice(&some[..bytes]),
            Err(error) => return Ok((got, error.kind())),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

async fn a_slow_reader_holds_no_snapshot_and_is_cut_off(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_LISTS", "2")]).await?;
    system.components(&CATALOGUE[..2]).await?;
    // More than is read ahead for a reader.
    incidents(&system, 3 * MANY).await?;
    let readers = ["1.1", "1.0"].map(|version| {
        let address = system.addresses[0].clone();
        (version, thread::spawn(move || read_slowly(&address, version)))
    });
    eventually("the list is being read", async || Ok(reading(&system).await?.len() == 2)).await?;
    // The database waits for a reader for 10 s in all. The readers are cut off after 60 s.
    eventually_within(Duration::from_secs(40), "the snapshots are gone", async || {
        Ok(reading(&system).await?.is_empty())
    })
    .await?;
    eventually_within(Duration::from_secs(75), "the readers are cut off", async || {
        Ok(readers.iter().all(|(_, reader)| reader.is_finished()))
    })
    .await?;
    for (version, reader) in readers {
        let (got, end) = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        ensure!(got.starts_with(format!("HTTP/{version} 200").as_bytes()), "{version}");
        // A client of HTTP/1.0 takes the end of its connection for the end of the list.
        ensure!(end == ErrorKind::ConnectionReset, "{version}: the list ends with {end:?}");
        ensure!(!got.ends_with(b"0\r\n\r\n") && !got.ends_with(b"]"), "{version}: it looks whole");
    }
    // Their places are others'.
    for path in [INCIDENTS, COMPONENT_STATUS] {
        ensure!(get(&system, path, &[]).await?.status == 200, "{path}");
    }
    system.finish().await
}
