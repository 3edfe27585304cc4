//! What the machine and the servers do when nothing but one thing is asked of them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::{Router, body::Bytes, http::header, routing::get};
use deploy::process::dying_with_us;
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::net::TcpListener;

use crate::runs::LoadRun;

/// As `gateway/src/store/version.rs` has it for lists that do not depend on which incidents are active.
const VERSION: &str =
    "SELECT pg_postmaster_start_time() AT TIME ZONE 'UTC', lists FROM sdb_version";

/// The argument by which this program is a bare web server.
pub(crate) const SERVE: &str = "--serve";

/// Serves a file's bytes at every path, and prints its address: axum with nothing behind it.
pub(crate) async fn serve(file: &Path) -> Result<()> {
    let bytes = Bytes::from(fs::read(file)?);
    let answer = move || {
        let bytes = bytes.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], bytes) }
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, Router::new().fallback(get(answer))).await?)
}

/// That server, in a process of its own as the gateway is; it ends when this is dropped.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: String,
}

impl Bare {
    pub(crate) fn start(bytes: &[u8], folder: &Path) -> Result<Self> {
        let file = folder.join(format!("bare-{}", bytes.len()));
        fs::write(&file, bytes)?;
        let mut command: Command = dying_with_us(std::env::current_exe()?, Signal::SIGKILL);
        command.arg(SERVE).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = deploy::process::spawn(command)?;
        let output = child.stdout.take().context("the bare server's output is not there")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned() })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended by itself, which its load has reported.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The question by which a gateway knows that a list is current, again and again on so many connections.
pub(crate) async fn version_reads(uri: &str, clients: u32, time: Duration) -> Result<LoadRun> {
    let pool = PgPoolOptions::new().max_connections(clients).connect(uri).await?;
    let begin = Instant::now();
    let reads = (0..clients).map(|_| read_until(&pool, begin + time));
    let requests = try_join_all(reads).await?.iter().sum();
    let seconds = begin.elapsed().as_secs_f64();
    pool.close().await;
    Ok(LoadRun { requests, seconds, ..LoadRun::default() })
}

async fn read_until(pool: &PgPool, end: Instant) -> Result<u64> {
    let mut connection = pool.acquire().await?;
    let mut reads = 0;
    while Instant::now() < end {
        sqlx::query(VERSION).fetch_one(&mut *connection).await?;
        reads += 1;
    }
    Ok(reads)
}

/// Rows in one transaction, as many as a worker's.
const BATCH: i64 = 512;

/// Rows of the inbox's form, written by one client in one transaction after the other.
pub(crate) async fn batch_commits(database: &PgPool, time: Duration) -> Result<LoadRun> {
    sqlx::query("DROP TABLE IF EXISTS benchmark_inbox").execute(database).await?;
    sqlx::query("CREATE TABLE benchmark_inbox (LIKE sdb_inbox INCLUDING ALL)")
        .execute(database)
        .await?;
    let begin = Instant::now();
    let mut rows = 0;
    while begin.elapsed() < time {
        let numbers: Vec<i64> = (rows..rows + BATCH).collect();
        let ids: Vec<_> = numbers.iter().map(|n| uuid::Uuid::from_u128(*n as u128)).collect();
        let texts = vec!["Incident"; numbers.len()];
        sqlx::query(
            "INSERT INTO benchmark_inbox (id, component_id, impact, text, received_at, decided_at,
                position, outcome, reason, incident_id)
            SELECT id, position % 100, 1, text, now(), now(), position, 'unchanged', 'baseline', 1
            FROM unnest($1::uuid[], $2::bigint[], $3::varchar[]) AS row (id, position, text)",
        )
        .bind(ids)
        .bind(numbers)
        .bind(texts)
        .execute(database)
        .await?;
        rows += BATCH;
    }
    let seconds = begin.elapsed().as_secs_f64();
    sqlx::query("DROP TABLE benchmark_inbox").execute(database).await?;
    Ok(LoadRun { requests: rows as u64, seconds, ..LoadRun::default() })
}

/// The times in ms, sorted, that the disk takes to have 4 KiB for good.
pub(crate) fn syncs(folder: &Path) -> Result<Vec<f64>> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}
