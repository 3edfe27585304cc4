//! What a long history costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use harness::System;
use shared::domain::timestamp::Timestamp;

use crate::{
    bench::{Bench, address, closed, say, start_gateway, start_worker},
    history::{self, Whose},
    load::{self, Request},
    report::{Figure, Row, Target, Unit},
    sequence::Sequence,
    updates::CONNECTIONS,
};

/// Lists over 4 MiB that a gateway streams at once.
const STREAMS: usize = 4;
/// What a gateway may have of each of them in memory, in MiB: what it collects before it streams a list, and what
/// it reads ahead (`docs/reference/limits.md`).
const IN_MEMORY: f64 = 4.0 + 32.0;
/// What it may need beside them, in MiB.
const BESIDE: f64 = 45.0;
/// Incidents of a page.
const PAGE: i64 = 100;
/// The page that is compared with the first, if there are so many.
const FAR_PAGE: i64 = 1_000;
/// Requests a second for the incidents that stand.
const ASKED: u32 = 200;

pub(crate) async fn grown(bench: &mut Bench) -> Result<()> {
    let (incidents, inbox) = (bench.scale.incidents, bench.scale.inbox);
    let empty = bench.system("empty").await?;
    let mut grown = bench.prepared("grown").await?;
    let history = format!("{incidents} closed incidents and {inbox} decided updates");
    say(&format!("making {history}"));
    history::add_incidents(&grown, incidents, 5, 2, Whose::All).await?;
    history::add_inbox(&grown, inbox).await?;
    history::settle(&grown).await?;
    start_worker(&mut grown).await?;
    start_gateway(&mut grown).await?;

    streamed(bench, &grown).await?;

    let request = bench.updates(Sequence::Repeating)?;
    let what = format!("POST with its outcome, {history}");
    // The empty one is warmed up like the grown one.
    closed(&empty, &request, CONNECTIONS, bench.scale.time.min(Duration::from_secs(1))).await?;
    let (posts, others) = bench
        .alternate(
            &what,
            &grown,
            async |time| closed(&grown, &request, CONNECTIONS, time).await,
            async |time| Ok(Some(closed(&empty, &request, CONNECTIONS, time).await?)),
        )
        .await?;
    bench.add(
        Row::rate(what, &posts)?
            .beside("an empty database", Figure::rate(&others)?)
            .target(Target::RatioAtLeast(0.95)),
    );

    let request = Request::get("/api/v1/incidents?active=true");
    let what = format!("GET /api/v1/incidents?active=true at a steady {ASKED}/s");
    let (active, empty_too) = bench
        .alternate(
            &what,
            &grown,
            async |time| load::steady(address(&grown)?, &request, ASKED, time).await,
            async |time| Ok(Some(load::steady(address(&empty)?, &request, ASKED, time).await?)),
        )
        .await?;
    bench.add(
        Row::latency(format!("{what}, p99"), &active, 0.99)?
            .beside("an empty database, p99", Figure::latency(&empty_too, 0.99)?),
    );
    pages(bench, &grown).await
}

/// The whole list by several readers at once, before anything else: the peak is theirs.
async fn streamed(bench: &mut Bench, grown: &System) -> Result<()> {
    say("the full list");
    let url = format!("http://{}/api/v1/incidents", address(grown)?);
    let begin = Instant::now();
    let sizes = try_join_all((0..STREAMS).map(|_| async {
        let mut answer = grown.client.get(&url).send().await?;
        ensure!(answer.status() == 200, "the full list: {}", answer.status());
        let mut size = 0;
        while let Some(chunk) = answer.chunk().await? {
            size += chunk.len();
        }
        Ok(size)
    }));
    let each = sizes.await?.iter().sum::<usize>() as f64 / STREAMS as f64;
    let seconds = begin.elapsed().as_secs_f64();
    let gateway = grown.gateways.first().context("there is no gateway")?;
    let mebibyte = f64::from(1 << 20);
    let peak = gateway.peak_memory()? as f64 / mebibyte;
    let most = BESIDE + STREAMS as f64 * (each / mebibyte).min(IN_MEMORY);
    bench.add(
        Row::new(
            format!(
                "gateway's peak memory, the full list of {:.0} MB to {STREAMS} readers at once",
                each / 1e6
            ),
            Figure::alone(peak),
            Unit::Mebibytes,
        )
        .target(Target::Below(most)),
    );
    bench.report.notes.push(format!(
        "The full list had {:.0} MB/s for all {STREAMS} readers together.",
        each * STREAMS as f64 / 1e6 / seconds
    ));
    Ok(())
}

/// A page far down against the first.
async fn pages(bench: &mut Bench, grown: &System) -> Result<()> {
    let all = grown.count("SELECT count(*) FROM incident").await?;
    let far = FAR_PAGE.min(all / PAGE).max(2);
    // Where the page before ends.
    let (start, id): (Timestamp, i32) = sqlx::query_as(
        "SELECT start_date, id FROM incident ORDER BY start_date DESC, id DESC OFFSET $1 LIMIT 1",
    )
    .bind((far - 1) * PAGE - 1)
    .fetch_one(&grown.database)
    .await?;
    let first = Request::get(&format!("/api/v1/incidents?limit={PAGE}"));
    let path = format!("/api/v1/incidents?limit={PAGE}&cursor={}.{id}", start.as_micros());
    let last = Request::get(&path);
    let what = format!("GET /api/v1/incidents?limit={PAGE}, page {far}, one connection");
    let (deep, top) = bench
        .alternate(
            &what,
            grown,
            async |time| closed(grown, &last, 1, time).await,
            async |time| Ok(Some(closed(grown, &first, 1, time).await?)),
        )
        .await?;
    bench.add(
        Row::latency(format!("{what}, p50"), &deep, 0.5)?
            .beside("page 1, p50", Figure::latency(&top, 0.5)?),
    );
    Ok(())
}
