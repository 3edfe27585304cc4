//! The lists, small and large.

use anyhow::{Context, Result, ensure};
use harness::System;
use reqwest::header::ETAG;

use crate::{
    baselines::{self, Bare},
    bench::{Bench, address, closed},
    history::{self, Whose},
    load::{self, Request},
    report::{Figure, Row, Target},
    runs::Runs,
};

const CONNECTIONS: usize = 64;
/// Connections to PostgreSQL that read one row each.
const READERS: u32 = 32;
/// The least share of what a bare web server serves, for 50 incidents.
const OF_FEW: f64 = 0.7;
/// The same for 1,000 incidents.
const OF_MANY: f64 = 0.9;

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
    let mut reads = Runs::default();
    let (list, whole) = (Request::get(path), Request::get("/"));
    let (lists, served) = bench
        .alternate(
            &what,
            &system,
            async |time| closed(&system, &list, CONNECTIONS, time).await,
            async |time| {
                reads.add(baselines::version_reads(&system.database_uri, READERS, time).await?);
                Ok(Some(load::closed(&bare.address, &whole, CONNECTIONS, time).await?))
            },
        )
        .await?;

    let conditional = Request::get(path).with("if-none-match", &tag)?;
    let unchanged = format!("{what}, `If-None-Match`: 304");
    let (fresh, all) = bench
        .alternate(
            &unchanged,
            &system,
            async |time| closed(&system, &conditional, CONNECTIONS, time).await,
            async |time| Ok(Some(closed(&system, &list, CONNECTIONS, time).await?)),
        )
        .await?;

    bench.add(
        Row::rate(what.clone(), &lists)?
            .beside(format!("bare axum, the same {size} bytes"), Figure::rate(&served)?)
            .target(Target::RatioAtLeast(OF_FEW)),
    );
    bench.add(Row::rate(what, &lists)?.beside(
        format!("PostgreSQL, the gateway's question for the version on {READERS} connections"),
        Figure::rate(&reads)?,
    ));
    bench.add(
        Row::rate(unchanged, &fresh)?
            .beside("200 of the same list", Figure::rate(&all)?)
            .target(Target::RatioAtLeast(1.0)),
    );
    Ok(())
}

/// Those of API v2, with 50 incidents.
pub(crate) async fn v2(bench: &mut Bench) -> Result<()> {
    let system = with_history(bench, "lists_v2", 50, 3, 2).await?;
    for path in ["/v2/events", "/v2/availability"] {
        beside_bare(bench, &system, path, &format!("GET {path}, 50 incidents"), OF_FEW).await?;
    }
    Ok(())
}

/// The page for people, with 50 incidents.
pub(crate) async fn page(bench: &mut Bench) -> Result<()> {
    let system = with_history(bench, "page", 50, 3, 2).await?;
    beside_bare(bench, &system, "/", "GET /, 50 incidents", OF_FEW).await
}

/// With 1,000 incidents of history.
pub(crate) async fn large(bench: &mut Bench) -> Result<()> {
    let system = with_history(bench, "large_lists", 1_000, 6, 3).await?;
    for path in ["/api/v1/incidents", "/api/v1/component_status"] {
        beside_bare(bench, &system, path, &format!("GET {path}, 1,000 incidents"), OF_MANY).await?;
    }
    Ok(())
}

/// A system with so many incidents of persons, each with so many updates and components.
async fn with_history(
    bench: &mut Bench,
    name: &str,
    incidents: u32,
    updates: u32,
    components: u32,
) -> Result<System> {
    let system = bench.system(name).await?;
    history::add_incidents(&system, incidents, updates, components, Whose::Persons).await?;
    history::settle(&system).await?;
    Ok(system)
}

/// A list, and the same bytes from a bare web server.
async fn beside_bare(
    bench: &mut Bench,
    system: &System,
    path: &str,
    what: &str,
    at_least: f64,
) -> Result<()> {
    let (bytes, _) = body(system, path).await?;
    let bare = Bare::start(&bytes, &bench.folder)?;
    let what = format!("{what}, {} kB", bytes.len() / 1_000);
    let (list, whole) = (Request::get(path), Request::get("/"));
    let (lists, served) = bench
        .alternate(
            &what,
            system,
            async |time| closed(system, &list, CONNECTIONS, time).await,
            async |time| Ok(Some(load::closed(&bare.address, &whole, CONNECTIONS, time).await?)),
        )
        .await?;
    bench.add(
        Row::rate(what, &lists)?
            .beside("bare axum, the same bytes", Figure::rate(&served)?)
            .target(Target::RatioAtLeast(at_least)),
    );
    Ok(())
}
