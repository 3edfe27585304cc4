//! Updates: with their outcomes, without, one alone, and at a steady rate.

use anyhow::{Context, Result};
use harness::System;

use crate::{
    baselines::{self, Bare},
    bench::{Bench, address, closed},
    history::{self, Whose},
    load::{self, Request},
    publisher::Publisher,
    report::{Figure, Row, Target, Unit},
    runs::{LoadRun, Runs, median},
    sequence::{Sequence, close_all, keep_closing},
};

/// Clients that wait for outcomes.
pub(crate) const CONNECTIONS: usize = 64;
/// Clients that do not.
const ASYNC_CONNECTIONS: usize = 256;
/// Updates a second of a quiet day.
const STEADY: u32 = 500;
/// Connections of those who do as much as they can beside a steady rate.
const STORM: usize = 32;

/// What a load of a sequence does: where each update changes something, incidents are closed all the
/// while, so that the answers stay as long as those of some hundred components.
pub(crate) async fn post_all(
    system: &System,
    sequence: Sequence,
    load: impl Future<Output = Result<LoadRun>>,
) -> Result<LoadRun> {
    match sequence {
        Sequence::Repeating | Sequence::Reported | Sequence::Storm => load.await,
        Sequence::Changing | Sequence::Worsening => {
            close_all(system).await?;
            tokio::select! {
                run = load => run,
                failed = keep_closing(system) => Err(failed.err().context("it never ends")?),
            }
        }
    }
}

/// With their outcomes, and what the programs hold in memory after that.
pub(crate) async fn post(bench: &mut Bench) -> Result<()> {
    let what = format!("POST with its outcome, {CONNECTIONS} connections");
    let (repeating, changing) = both(bench, &what, "post", CONNECTIONS, Ok).await?;
    bench.add(
        Row::rate(format!("{what}, {}", Sequence::Changing.words()), &changing)?
            .beside(Sequence::Repeating.words(), Figure::rate(&repeating)?)
            .target(Target::RatioAtLeast(0.5)),
    );
    Ok(())
}

/// Without waiting for outcomes.
pub(crate) async fn respond_async(bench: &mut Bench) -> Result<()> {
    let what = format!("POST with `Prefer: respond-async`, {ASYNC_CONNECTIONS} connections");
    let async_of = |request: Request| request.with("prefer", "respond-async");
    both(bench, &what, "async", ASYNC_CONNECTIONS, async_of).await?;
    Ok(())
}

/// Both sequences, each beside a bare publisher with as many in flight; returns the runs of both.
async fn both(
    bench: &mut Bench,
    what: &str,
    name: &str,
    connections: usize,
    asked: impl Fn(Request) -> Result<Request>,
) -> Result<(Runs, Runs)> {
    let mut of_both = Vec::new();
    for sequence in [Sequence::Repeating, Sequence::Changing] {
        let system = bench.system(&format!("{name}_{}", sequence.word())).await?;
        sequence.prepare(&system).await?;
        let bare = bench.prepared_bare(&format!("{name}_{}_bare", sequence.word())).await?;
        let mut publisher = Publisher::connect(&bare, Sequence::Repeating).await?;
        let bodies = sequence.bodies();
        let request = asked(Request::post(&bodies, &bench.token)?)?;
        let what = format!("{what}, {}", sequence.words());
        let (posts, published) = bench
            .alternate(
                &what,
                &system,
                async |time| {
                    bodies.rewind();
                    let load = closed(&system, &request, connections, time);
                    post_all(&system, sequence, load).await
                },
                async |time| {
                    let published = publisher.publish(connections, time).await?;
                    publisher.purge().await?;
                    Ok(Some(published))
                },
            )
            .await?;
        let beside = format!("bare publisher, {connections} in flight");
        bench.add(Row::rate(what.clone(), &posts)?.beside(beside, Figure::rate(&published)?));
        for (program, processes) in [("gateway", &system.gateways), ("worker", &system.workers)] {
            let process = processes.first().context("it was started")?;
            let memory = process.memory()? as f64 / f64::from(1 << 20);
            bench.add(
                Row::new(
                    format!("{program}, memory after: {what}"),
                    Figure::alone(memory),
                    Unit::Mebibytes,
                )
                .target(Target::Below(100.0)),
            );
        }
        publisher.close().await?;
        of_both.push(posts);
    }
    let changing = of_both.pop().context("two sequences")?;
    Ok((of_both.pop().context("two sequences")?, changing))
}

/// One at a time.
pub(crate) async fn alone(bench: &mut Bench) -> Result<()> {
    let system = bench.system("alone").await?;
    let bare = bench.prepared_bare("alone_bare").await?;
    let mut publisher = Publisher::connect(&bare, Sequence::Repeating).await?;
    let request = bench.updates(Sequence::Repeating)?;
    let what = "POST with its outcome, one connection";
    let (posts, round_trips) = bench
        .alternate(
            what,
            &system,
            async |time| closed(&system, &request, 1, time).await,
            async |time| Ok(Some(publisher.round_trips(&bare, time).await?)),
        )
        .await?;
    bench.add(
        Row::latency(format!("{what}, p50"), &posts, 0.5)?
            .beside("publish, confirm, consume and reply, p50", Figure::latency(&round_trips, 0.5)?)
            .target(Target::RatioAtMost(2.0)),
    );
    publisher.close().await
}

/// At a steady rate.
pub(crate) async fn steady(bench: &mut Bench) -> Result<()> {
    let system = bench.system("steady").await?;
    let servers = bench.folder.join("servers");
    let mut disk = Vec::new();
    let request = bench.updates(Sequence::Repeating)?;
    let what = format!("POST at a steady {STEADY}/s");
    let (posts, _) = bench
        .alternate(
            &what,
            &system,
            async |time| load::steady(address(&system)?, &request, STEADY, time).await,
            async |_| {
                let folder = servers.clone();
                let syncs = tokio::task::spawn_blocking(move || baselines::syncs(&folder));
                disk.push(syncs.await??);
                Ok(None)
            },
        )
        .await?;
    let sync = |part: f64| {
        let at = |times: &Vec<f64>| {
            times.get(((times.len() as f64 * part) as usize).min(times.len() - 1)).copied()
        };
        Figure::alone(median(disk.iter().filter_map(at).collect()).unwrap_or_default())
    };
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        bench.add(
            Row::latency(format!("{what}, {name}"), &posts, quantile)?
                .beside(format!("fdatasync of 4 KiB, {name}"), sync(quantile)),
        );
    }
    Ok(())
}

/// Readers and writers, each alone and beside the other: latencies at a steady rate while the others
/// do as much as they can. Writers also beside readers of a bare server: what the machine alone does
/// to them.
pub(crate) async fn mixed(bench: &mut Bench) -> Result<()> {
    let system = bench.system("mixed").await?;
    let changing = Sequence::Changing;
    changing.prepare(&system).await?;
    history::add_incidents(&system, 50, 3, 2, Whose::Persons).await?;
    let post = bench.updates(Sequence::Repeating)?;
    // Without those that are closed: the list would grow from run to run.
    let path = "/api/v1/incidents?active=true";
    let list = Request::get(path);
    let url = format!("http://{}{path}", address(&system)?);
    let bytes = system.client.get(url).send().await?.bytes().await?;
    let bare = Bare::start(&bytes, &bench.folder)?;

    let what = format!("GET /incidents at a steady {STEADY}/s");
    let at = address(&system)?.to_owned();
    let alone = bench
        .repeat(&format!("{what}, alone"), &system, async |time| {
            load::steady(&at, &list, STEADY, time).await
        })
        .await?;
    let bodies = changing.bodies();
    let change = Request::post(&bodies, &bench.token)?;
    let beside = format!("{what}, while each of {STEADY} POSTs a second changes the list");
    let watched = bench
        .repeat(&beside, &system, async |time| {
            bodies.rewind();
            let both = async {
                let reads = load::steady(&at, &list, STEADY, time);
                let posts = load::steady(&at, &change, STEADY, time);
                Ok(tokio::try_join!(reads, posts)?.0)
            };
            post_all(&system, changing, both).await
        })
        .await?;
    bench.add(
        Row::latency(format!("{beside}, p99"), &watched, 0.99)?
            .beside("alone, p99", Figure::latency(&alone, 0.99)?)
            .target(Target::RatioAtMost(5.0)),
    );
    close_all(&system).await?;
    for (name, watched, others_name, others, elsewhere) in [
        ("GET /incidents", &list, "POST", &post, None),
        ("POST", &post, "GET /incidents", &list, Some(&bare)),
    ] {
        beside_storm(bench, &system, (name, watched), (others_name, others), elsewhere).await?;
    }
    Ok(())
}

async fn beside_storm(
    bench: &mut Bench,
    system: &System,
    (name, watched): (&str, &Request),
    (others_name, others): (&str, &Request),
    elsewhere: Option<&Bare>,
) -> Result<()> {
    let at = format!("{name} at a steady {STEADY}/s");
    let alone = bench
        .repeat(&format!("{at}, alone, before a storm"), system, async |time| {
            load::steady(address(system)?, watched, STEADY, time).await
        })
        .await?;
    let beside = format!("{at}, beside {STORM} connections that {others_name}");
    let mut storms = Runs::default();
    let (both, beside_bare) = bench
        .alternate(
            &beside,
            system,
            async |time| {
                let steady = load::steady(address(system)?, watched, STEADY, time);
                let storm = closed(system, others, STORM, time);
                let (steady, storm) = tokio::try_join!(steady, storm)?;
                storms.add(storm);
                Ok(steady)
            },
            async |time| {
                let Some(bare) = elsewhere else { return Ok(None) };
                let steady = load::steady(address(system)?, watched, STEADY, time);
                let storm = load::closed(&bare.address, others, STORM, time);
                Ok(Some(tokio::try_join!(steady, storm)?.0))
            },
        )
        .await?;
    bench.report.notes.push(format!(
        "Those {STORM} connections that {others_name} had {:.0} answers a second, {} failed.",
        storms.rate()?,
        storms.failed()
    ));
    bench.add(
        Row::latency(format!("{beside}, p99"), &both, 0.99)?
            .beside("alone, p99", Figure::latency(&alone, 0.99)?),
    );
    if elsewhere.is_some() {
        let what =
            format!("beside {STORM} connections that GET the same bytes of a bare axum, p99");
        bench.add(
            Row::latency(format!("{beside}, p99"), &both, 0.99)?
                .beside(what, Figure::latency(&beside_bare, 0.99)?),
        );
    }
    Ok(())
}
