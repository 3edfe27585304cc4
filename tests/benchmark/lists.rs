//! The lists, small and large.

use anyhow::{Context, Result, ensure};
use harness::System;
use reqwest::header::ETAG;

use crate::{
    bench::{Bench, address, closed, median},
    history::{self, Whose},
    load::Request,
    report::{Row, Target, Unit},
    yardsticks::{self, Bare},
};

const CONNECTIONS: usize = 64;
/// Connections to PostgreSQL that read one row each.
const READERS: u32 = 32;

fn list(path: &str) -> Request {
    Request::Get(path.to_owned(), Vec::new())
}

/// The bytes of a list and its tag, as a client gets them that takes no compression.
async fn body(system: &System, path: &str) -> Result<(Vec<u8>, String)> {
    let url = format!("http://{}{path}", address(system)?);
    let answer = system.client.get(url).send().await?;
    ensure!(answer.status() == 200, "{path}: {}", answer.status());
    let tag = answer.headers().get(ETAG).context("a list has no tag")?.to_str()?.to_owned();
    Ok((answer.bytes().await?.to_vec(), tag))
}

/// With 50 incidents.
pub(crate) async fn small(bench: &mut Bench) -> Result<()> {
    let system = bench.system("small_lists").await?;
    history::add_incidents(&system, 50, 3, 2, Whose::Persons).await?;
    history::settle(&system).await?;
    let path = "/api/v1/incidents";
    let (bytes, tag) = body(&system, path).await?;
    let bare = Bare::start(&bytes, &bench.folder)?;

    let (what, size) = (format!("GET {path}, 50 incidents"), bytes.len());
    let mut reads = Vec::new();
    let (lists, served) = bench
        .alternate(
            &what,
            &system,
            async |generator, time| {
                closed(generator, &system, &list(path), CONNECTIONS, time).await
            },
            async |generator, time| {
                reads.push(yardsticks::one_row_reads(&system.database_uri, READERS, time).await?);
                Ok(Some(generator.closed(&bare.address, &list("/"), CONNECTIONS, time).await?))
            },
        )
        .await?;
    let served = served.context("the bare server was not asked")?;
    let reads = median(&reads)?;

    let conditional = Request::Get(path.to_owned(), vec![("If-None-Match", tag)]);
    let unchanged = format!("{what}, `If-None-Match`: 304");
    let (fresh, whole) = bench
        .alternate(
            &unchanged,
            &system,
            async |generator, time| {
                closed(generator, &system, &conditional, CONNECTIONS, time).await
            },
            async |generator, time| {
                Ok(Some(closed(generator, &system, &list(path), CONNECTIONS, time).await?))
            },
        )
        .await?;
    let whole = whole.context("the whole list was not asked for")?;

    bench.add(
        Row::new(what.clone(), lists.rate(), Unit::PerSecond)
            .beside(format!("bare axum, the same {size} bytes"), served.rate(), Unit::PerSecond)
            .target(Target::AtLeast(15_000.0)),
    );
    bench.add(Row::new(what, lists.rate(), Unit::PerSecond).beside(
        format!("PostgreSQL, one row read on {READERS} connections"),
        reads.rate(),
        Unit::PerSecond,
    ));
    bench.add(
        Row::new(unchanged, fresh.rate(), Unit::PerSecond)
            .beside("200 of the same list", whole.rate(), Unit::PerSecond)
            .target(Target::RatioAtLeast(1.0)),
    );
    Ok(())
}

/// With 1,000 incidents of history.
pub(crate) async fn large(bench: &mut Bench) -> Result<()> {
    let system = bench.system("large_lists").await?;
    history::add_incidents(&system, 1_000, 6, 3, Whose::Persons).await?;
    history::settle(&system).await?;
    let targets = [
        ("/api/v1/incidents", Target::EitherAtLeast { figure: 1_470.0, ratio: 0.9 }),
        ("/api/v1/component_status", Target::AtLeast(480.0)),
    ];
    for (path, target) in targets {
        let (bytes, _) = body(&system, path).await?;
        let bare = Bare::start(&bytes, &bench.folder)?;
        let what = format!("GET {path}, 1,000 incidents, {} kB", bytes.len() / 1_000);
        let (lists, served) = bench
            .alternate(
                &what,
                &system,
                async |generator, time| {
                    closed(generator, &system, &list(path), CONNECTIONS, time).await
                },
                async |generator, time| {
                    let whole = list("/");
                    Ok(Some(generator.closed(&bare.address, &whole, CONNECTIONS, time).await?))
                },
            )
            .await?;
        let served = served.context("the bare server was not asked")?;
        bench.add(
            Row::new(what, lists.rate(), Unit::PerSecond)
                .beside("bare axum, the same bytes", served.rate(), Unit::PerSecond)
                .target(target),
        );
    }
    Ok(())
}
