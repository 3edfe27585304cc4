//! Updates: with their outcomes, without, from a backlog, and at a steady rate.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::System;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::{
    bench::{Bench, address, closed, median, middle_of, say, start_worker},
    history::{self, Whose},
    load::{Outcome, Request},
    publisher::Publisher,
    report::{Row, Target, Unit},
    usage::{Meter, Usage},
    yardsticks::{self, Bare},
};

/// Clients that wait for outcomes.
pub(crate) const CONNECTIONS: usize = 64;
/// Clients that do not.
const ASYNC_CONNECTIONS: usize = 256;
/// Updates a second of a quiet day.
pub(crate) const STEADY: u32 = 500;
/// Connections of those who do as much as they can beside a steady rate.
const STORM: usize = 32;
/// Components that no update is about.
const OTHER_COMPONENTS: u32 = 9_900;
/// Closed incidents of the components that updates are about.
const CLOSED: u32 = 20_000;
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
    let backlog = bench.scale.backlog;
    let what = format!("one worker, a backlog of {backlog} updates");
    say(&what);
    let mut drain = Drain::start(bench.prepared("drain").await?).await?;
    let (mut drains, mut commits) = (Vec::new(), Vec::new());
    let mut usage = Usage::default();
    for _ in 0..bench.scale.runs {
        let (drained, used) = drain.run(backlog).await?;
        drains.push(drained);
        usage = usage.plus(used);
        commits.push(yardsticks::batch_commits(&drain.system.database, bench.scale.time).await?);
    }
    let (drained, committed) = (bench.note(&what, &drains, usage)?, median(&commits)?);
    bench.add(
        Row::new(what, drained.rate(), Unit::PerSecond)
            .beside("PostgreSQL, rows in commits of 512", committed.rate(), Unit::PerSecond)
            .target(Target::AtLeast(30_000.0)),
    );
    drain.publisher.close().await
}

/// From a backlog, among many components and incidents that stand and that no update is about, and
/// after many closed ones of persons that were about the same components.
pub(crate) async fn broad(bench: &mut Bench) -> Result<()> {
    let backlog = bench.scale.backlog;
    let what = format!(
        "one worker, a backlog of {backlog} updates, among {OTHER_COMPONENTS} other components \
         with {} incidents that stand, after {CLOSED} closed ones",
        OTHER_COMPONENTS + history::SYSTEM_INCIDENTS
    );
    say(&what);
    let (narrow, broad) = (bench.prepared("narrow").await?, bench.prepared("broad").await?);
    // In both, the system's incidents have others in them, and so stand at the end as at the beginning.
    history::add_others(&narrow, history::SYSTEM_INCIDENTS).await?;
    history::add_incidents(&broad, CLOSED, 1, 2, Whose::Persons).await?;
    history::add_others(&broad, OTHER_COMPONENTS).await?;
    history::settle(&narrow).await?;
    history::settle(&broad).await?;
    let (mut narrow, mut broad) = (Drain::start(narrow).await?, Drain::start(broad).await?);
    let (mut narrows, mut broads) = (Vec::new(), Vec::new());
    let mut usage = Usage::default();
    for _ in 0..bench.scale.runs {
        let (drained, used) = broad.run(backlog).await?;
        broads.push(drained);
        usage = usage.plus(used);
        narrows.push(narrow.run(backlog).await?.0);
    }
    let (broads, narrows) = (bench.note(&what, &broads, usage)?, median(&narrows)?);
    bench.add(
        Row::new(what, broads.rate(), Unit::PerSecond)
            .beside(
                format!("{} others, no closed ones", history::SYSTEM_INCIDENTS),
                narrows.rate(),
                Unit::PerSecond,
            )
            .target(Target::RatioAtLeast(0.9)),
    );
    narrow.publisher.close().await?;
    broad.publisher.close().await
}

/// One worker and what fills its queues while it is away.
struct Drain {
    system: System,
    publisher: Publisher,
}

impl Drain {
    async fn start(mut system: System) -> Result<Self> {
        // It has been there before a backlog, and its tables are warm.
        start_worker(&mut system).await?;
        let publisher = Publisher::connect(&system).await?;
        Ok(Self { system, publisher })
    }

    async fn run(&mut self, backlog: u64) -> Result<(Outcome, Usage)> {
        let mut worker = self.system.workers.pop().context("there is no worker")?;
        worker.signal(Signal::SIGTERM)?;
        let status = worker.ended().await?;
        ensure!(status.success(), "the worker ended with {status}");
        let position = "SELECT position FROM sdb_scope";
        let before = self.system.count(position).await?;
        self.publisher.fill(backlog).await?;

        start_worker(&mut self.system).await?;
        let begin = Instant::now();
        let meter = Meter::start(&self.system)?;
        while self.system.count(position).await? < before + backlog as i64 {
            ensure!(begin.elapsed() < BACKLOG_LIMIT, "the backlog is not drained");
            sleep(Duration::from_millis(5)).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let usage = meter.stop()?;
        let parked = self.system.count("SELECT count(*) FROM sdb_parked").await?;
        ensure!(parked == 0, "{parked} updates are parked");
        Ok((Outcome { requests: backlog, seconds, ..Outcome::default() }, usage))
    }
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
/// do as much as they can. Writers also beside readers of a bare server: what the machine alone does
/// to them.
pub(crate) async fn mixed(bench: &mut Bench) -> Result<()> {
    let system = bench.system("mixed").await?;
    history::add_incidents(&system, 50, 3, 2, Whose::Persons).await?;
    let post = Request::Post(Vec::new());
    let path = "/api/v1/incidents";
    let list = Request::Get(path.to_owned(), Vec::new());
    let bytes = system
        .client
        .get(format!("http://{}{path}", address(&system)?))
        .send()
        .await?
        .bytes()
        .await?;
    let bare = Bare::start(&bytes, &bench.folder)?;
    for (name, watched, others_name, others, elsewhere) in [
        ("GET /incidents", &list, "POST", &post, None),
        ("POST", &post, "GET /incidents", &list, Some(&bare)),
    ] {
        let at = format!("{name} at a steady {STEADY}/s");
        let alone = format!("{at}, alone");
        let alone = bench
            .repeat(&alone, &system, async |generator, time| {
                generator.steady(address(&system)?, watched, STEADY, time).await
            })
            .await?;
        let beside = format!("{at}, beside {STORM} connections that {others_name}");
        let mut storms = Vec::new();
        let (both, beside_bare) = bench
            .alternate(
                &beside,
                &system,
                async |generator, time| {
                    let steady = generator.steady(address(&system)?, watched, STEADY, time);
                    let storm = closed(generator, &system, others, STORM, time);
                    let (steady, storm) = tokio::try_join!(steady, storm)?;
                    storms.push(storm);
                    Ok(steady)
                },
                async |generator, time| {
                    let Some(bare) = elsewhere else { return Ok(None) };
                    let steady = generator.steady(address(&system)?, watched, STEADY, time);
                    let storm = generator.closed(&bare.address, others, STORM, time);
                    Ok(Some(tokio::try_join!(steady, storm)?.0))
                },
            )
            .await?;
        let storm = median(&storms)?;
        bench.report.notes.push(format!(
            "Those {STORM} connections that {others_name} had {:.0} answers a second, {} failed.",
            storm.rate(),
            storm.failed
        ));
        let mut yardsticks = vec![("alone".to_owned(), alone)];
        yardsticks.extend(beside_bare.map(|outcome| {
            (format!("beside {STORM} connections that GET the same bytes of a bare axum"), outcome)
        }));
        let p99 = |outcome: &Outcome| outcome.p99.unwrap_or_default();
        for (yardstick, outcome) in yardsticks {
            bench.add(Row::new(format!("{beside}, p99"), p99(&both), Unit::Milliseconds).beside(
                format!("{yardstick}, p99"),
                p99(&outcome),
                Unit::Milliseconds,
            ));
        }
    }
    Ok(())
}
