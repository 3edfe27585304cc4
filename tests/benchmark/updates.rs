//! Updates: with their outcomes, without, from a backlog, and at a steady rate.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::{
    bench::{Bench, address, closed, median, middle_of, say, start_worker},
    load::{Outcome, Request},
    publisher::Publisher,
    report::{Load, Row, Target, Unit},
    usage::{Meter, Usage},
    yardsticks,
};

/// Clients that wait for outcomes.
pub(crate) const CONNECTIONS: usize = 64;
/// Clients that do not.
const ASYNC_CONNECTIONS: usize = 256;
/// Updates a second of a quiet day.
pub(crate) const STEADY: u32 = 500;
/// Longer than a worker may take for a backlog, or RabbitMQ for getting one.
const BACKLOG_LIMIT: Duration = Duration::from_secs(120);

/// With their outcomes.
pub(crate) async fn post(bench: &mut Bench) -> Result<()> {
    let system = bench.system("post").await?;
    let bare = bench.prepared("post_bare").await?;
    let mut publisher = Publisher::connect(&bare).await?;
    let request = Request::Post(Vec::new());
    let what = format!("POST with its outcome, {CONNECTIONS} connections");
    let (posts, published) = bench
        .alternate(
            &what,
            &system,
            async |generator, time| closed(generator, &system, &request, CONNECTIONS, time).await,
            async |_, time| {
                let published = publisher.publish(CONNECTIONS, time, u64::MAX).await?;
                publisher.purge().await?;
                Ok(Some(published))
            },
        )
        .await?;
    let published = published.context("the publisher did not run")?;
    bench.add(
        Row::new(what, posts.rate(), Unit::PerSecond)
            .beside(
                format!("bare publisher, {CONNECTIONS} in flight"),
                published.rate(),
                Unit::PerSecond,
            )
            .target(Target::AtLeast(5_000.0)),
    );
    publisher.close().await
}

/// Without waiting for outcomes.
pub(crate) async fn respond_async(bench: &mut Bench) -> Result<()> {
    let system = bench.system("async").await?;
    let bare = bench.prepared("async_bare").await?;
    let mut publisher = Publisher::connect(&bare).await?;
    let request = Request::Post(vec![("Prefer", "respond-async".to_owned())]);
    let what = format!("POST with `Prefer: respond-async`, {ASYNC_CONNECTIONS} connections");
    let (posts, published) = bench
        .alternate(
            &what,
            &system,
            async |generator, time| {
                closed(generator, &system, &request, ASYNC_CONNECTIONS, time).await
            },
            async |_, time| {
                let published = publisher.publish(ASYNC_CONNECTIONS, time, u64::MAX).await?;
                publisher.purge().await?;
                Ok(Some(published))
            },
        )
        .await?;
    let published = published.context("the publisher did not run")?;
    bench.add(
        Row::new(what, posts.rate(), Unit::PerSecond)
            .beside(
                format!("bare publisher, {ASYNC_CONNECTIONS} in flight"),
                published.rate(),
                Unit::PerSecond,
            )
            .target(Target::RatioAtLeast(0.5)),
    );
    publisher.close().await
}

/// From a backlog, by one worker.
pub(crate) async fn drain(bench: &mut Bench) -> Result<()> {
    let mut system = bench.prepared("drain").await?;
    // The queues' worker: it has been there before, and its tables are warm.
    start_worker(&mut system).await?;
    let mut publisher = Publisher::connect(&system).await?;
    let backlog = bench.scale.backlog;
    let what = format!("one worker, a backlog of {backlog} updates");
    say(&what);
    let (mut drains, mut commits) = (Vec::new(), Vec::new());
    let mut usage = Usage::default();
    for _ in 0..bench.scale.runs {
        let mut worker = system.workers.pop().context("there is no worker")?;
        worker.signal(Signal::SIGTERM)?;
        let status = worker.ended().await?;
        ensure!(status.success(), "the worker ended with {status}");
        let position = "SELECT position FROM sdb_scope";
        let before = system.count(position).await?;
        publisher.fill(backlog).await?;

        start_worker(&mut system).await?;
        let begin = Instant::now();
        let meter = Meter::start(&system)?;
        while system.count(position).await? < before + backlog as i64 {
            ensure!(begin.elapsed() < BACKLOG_LIMIT, "the backlog is not drained");
            sleep(Duration::from_millis(5)).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        usage = usage.plus(meter.stop()?);
        drains.push(Outcome { requests: backlog, seconds, ..Outcome::default() });
        commits.push(yardsticks::batch_commits(&system.database, bench.scale.time).await?);
    }
    let parked = system.count("SELECT count(*) FROM sdb_parked").await?;
    ensure!(parked == 0, "{parked} updates are parked");
    let (drained, committed) = (median(&drains)?, median(&commits)?);
    let requests = drains.iter().map(|run| run.requests).sum();
    let all = Outcome { requests, seconds: requests as f64 / drained.rate(), ..drained };
    bench.report.loads.push(Load { what: what.clone(), outcome: all, usage });
    bench.add(
        Row::new(what, drained.rate(), Unit::PerSecond)
            .beside("PostgreSQL, rows in commits of 512", committed.rate(), Unit::PerSecond)
            .target(Target::AtLeast(30_000.0)),
    );
    publisher.close().await
}

/// At a steady rate.
pub(crate) async fn steady(bench: &mut Bench) -> Result<()> {
    let system = bench.system("steady").await?;
    let servers = bench.folder.join("servers");
    let mut disk = Vec::new();
    let request = Request::Post(Vec::new());
    let what = format!("POST at a steady {STEADY}/s");
    let (posts, _) = bench
        .alternate(
            &what,
            &system,
            async |generator, time| {
                generator.steady(address(&system)?, &request, STEADY, time).await
            },
            async |_, _| {
                let folder = servers.clone();
                let syncs = tokio::task::spawn_blocking(move || yardsticks::syncs(&folder));
                disk.push(syncs.await??);
                Ok(None)
            },
        )
        .await?;
    let sync = |part: f64| {
        let at = |times: &Vec<f64>| {
            times.get(((times.len() as f64 * part) as usize).min(times.len() - 1)).copied()
        };
        middle_of(disk.iter().filter_map(at).collect()).unwrap_or_default()
    };
    let rows = [
        ("p50", posts.p50, sync(0.5), Some(5.0)),
        ("p99", posts.p99, sync(0.99), Some(25.0)),
        ("max", posts.max, sync(1.0), None),
    ];
    for (name, figure, disk, limit) in rows {
        let mut row =
            Row::new(format!("{what}, {name}"), figure.unwrap_or_default(), Unit::Milliseconds)
                .beside(format!("fdatasync of 4 KiB, {name}"), disk, Unit::Milliseconds);
        row.target = limit.map(Target::Below);
        bench.add(row);
    }
    Ok(())
}

/// Readers and writers, each alone and beside the other: latencies at a steady rate while the others
/// do as much as they can.
pub(crate) async fn mixed(bench: &mut Bench) -> Result<()> {
    let system = bench.system("mixed").await?;
    crate::history::add_incidents(&system, 50, 3, 2, false).await?;
    let post = Request::Post(Vec::new());
    let list = Request::Get("/api/v1/incidents".to_owned(), Vec::new());
    for (name, watched, others_name, others) in
        [("GET /incidents", &list, "POST", &post), ("POST", &post, "GET /incidents", &list)]
    {
        let alone = format!("{name} at a steady {STEADY}/s, alone");
        let alone = bench
            .repeat(&alone, &system, async |generator, time| {
                generator.steady(address(&system)?, watched, STEADY, time).await
            })
            .await?;
        let beside =
            format!("{name} at a steady {STEADY}/s, beside 32 connections that {others_name}");
        let mut storms = Vec::new();
        let both = bench
            .repeat(&beside, &system, async |generator, time| {
                let steady = generator.steady(address(&system)?, watched, STEADY, time);
                let storm = closed(generator, &system, others, 32, time);
                let (steady, storm) = tokio::try_join!(steady, storm)?;
                storms.push(storm);
                Ok(steady)
            })
            .await?;
        let storm = median(&storms)?;
        bench.report.notes.push(format!(
            "Those 32 connections that {others_name} had {:.0} answers a second, {} failed.",
            storm.rate(),
            storm.failed
        ));
        let millis = |time: Option<f64>| time.unwrap_or_default();
        bench.add(Row::new(format!("{beside}, p99"), millis(both.p99), Unit::Milliseconds).beside(
            "alone, p99",
            millis(alone.p99),
            Unit::Milliseconds,
        ));
    }
    Ok(())
}
