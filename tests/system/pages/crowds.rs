//! Many readers, readers that make up what they ask for, and what is slow to read: nobody waits for another's.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Page, live::Reader, page, page_with, plant, rendered, shows};
use harness::{Component, Fixture, System, eventually, status_update, tests, unless_unanswered};

tests!(
    a_thousand_readers_of_events_cost_the_database_nothing,
    nobody_waits_for_the_bars_of_the_next_minute,
    lists_do_not_wait_for_bars,
    documents_that_clients_make_up_hold_up_no_others,
    regions_and_components_that_do_not_exist_are_refused_from_memory,
    a_large_document_is_never_whole_in_memory,
);

const CATALOGUE: &[Component<'_>] = &[("DNS", &[("region", "R1")]), ("CDN", &[("region", "R2")])];
/// The sessions of gateways.
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'gateway'";
/// Those of them that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND application_name = 'gateway' AND wait_event_type = 'Lock'";
/// PostgreSQL ends a statement that waits for a lock after so long, and a gateway gives one up for a version that it has
/// waited for after 2 s.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const VERSION_LIMIT: Duration = Duration::from_secs(2);

/// A page or a document for one who asks again when the database did not answer in time.
async fn in_the_end(system: &System, path: &str, headers: &[(&str, &str)]) -> Result<Page> {
    unless_unanswered(async || page_with(system, path, headers).await, |page| page.status).await
}

async fn a_thousand_readers_of_events_cost_the_database_nothing(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    shows(&system, "/", "All components are operational").await?;
    let sessions = system.count(SESSIONS).await?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut readers = try_join_all((0..1_000).map(|_| Reader::new(&system))).await?;
    for reader in &mut readers {
        ensure!(reader.next().await?.is_some());
    }
    // On a machine that stalls, a session may be replaced by another one.
    let have_none = async || Ok(system.count(SESSIONS).await? <= sessions + 1);
    eventually("they have no sessions of their own", have_none).await?;
    // Whatever asks for the version waits for this lock: one task for all of them, and the copy of the catalogue.
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE sdb_version").execute(&mut *held).await?;
    let began = Instant::now();
    eventually("a version is being read", async || Ok(system.count(WAITING).await? > 0)).await?;
    // Long enough for others to come.
    sleep(Duration::from_millis(600)).await;
    let waiting = system.count(WAITING).await?;
    // Each of both asks again on another session then.
    let is_late = began.elapsed() >= VERSION_LIMIT;
    held.rollback().await?;
    ensure!(
        waiting <= 2 || (is_late && waiting < 20),
        "{waiting} statements wait for 1,000 readers"
    );

    // All of them learn of a change and load the page at once, as browsers do.
    let before = rendered(&system).await?;
    ensure!(system.post(&status_update("DNS", 3)).await?.status == 201);
    let follow = readers.iter_mut().map(|reader| async {
        ensure!(reader.next().await?.is_some());
        page(&system, "/").await
    });
    for page in join_all(follow).await {
        let page = page?;
        ensure!(page.has("Outage of 1 component"), "{}", page.text);
    }
    // A second may have passed meanwhile, and a minute.
    let made = rendered(&system).await? - before;
    ensure!(made < 50.0, "1,000 readers had {made} pages made");
    drop(readers);
    system.finish().await
}

async fn nobody_waits_for_the_bars_of_the_next_minute(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    shows(&system, "/", "All components are operational").await?;
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE sdb_affected").execute(&mut *held).await?;
    // As a minute that passes, this is a reason to read them again.
    system.sql("INSERT INTO component (name) VALUES ('New')").await?;
    shows(&system, "/", ">New<").await?;
    eventually("the bars are read again", async || {
        Ok(page(&system, "/").await?.status == 200 && system.count(WAITING).await? > 0)
    })
    .await?;
    held.rollback().await?;
    system.finish().await
}

async fn lists_do_not_wait_for_bars(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_DATABASE_CONNECTIONS", "1")]).await?;
    system.components(CATALOGUE).await?;
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE sdb_affected").execute(&mut *held).await?;
    let (first, ()) = tokio::try_join!(in_the_end(&system, "/", &[]), async {
        eventually("the bars are read", async || Ok(system.count(WAITING).await? > 0)).await?;
        let lists = page(&system, "/api/v1/incidents").await?;
        let history = page(&system, "/history").await?;
        held.rollback().await?;
        ensure!(lists.status == 200 && history.status == 200, "{lists:?}, {history:?}");
        anyhow::Ok(())
    })?;
    ensure!(first.status == 200, "{first:?}");
    shows(&system, "/", "All components are operational").await?;
    system.finish().await
}

async fn documents_that_clients_make_up_hold_up_no_others(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    // Two of them are for documents, and one of those for what clients make up.
    system.start_gateway(&[("SDB_DATABASE_CONNECTIONS", "4")]).await?;
    system.components(CATALOGUE).await?;
    plant(&system, "By hand").await?;
    shows(&system, "/badge.svg", ">Major problem<").await?;
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
    let began = Instant::now();
    let hosts: Vec<String> = (0..6).map(|n| format!("{n}.example.org")).collect();
    let feeds =
        join_all(hosts.iter().map(|host| async {
            in_the_end(&system, "/feed.atom", &[("Host", host.as_str())]).await
        }));
    let paths: Vec<String> = (1..=6).map(|id| format!("/incidents/{id}")).collect();
    let incidents = join_all(paths.iter().map(|path| in_the_end(&system, path, &[])));
    let (feeds, incidents, meanwhile) = tokio::join!(feeds, incidents, async {
        eventually("one is being written", async || Ok(system.count(WAITING).await? > 0)).await?;
        // Long enough for the others to come.
        sleep(Duration::from_millis(500)).await;
        let waiting = system.count(WAITING).await?;
        // The one that waits may have been ended.
        let is_late = began.elapsed() >= LOCK_LIMIT;
        // These read another table.
        let badge = page(&system, "/badge.svg").await?;
        let availability = page(&system, "/v2/availability").await?;
        held.rollback().await?;
        ensure!(waiting == 1 || is_late, "{waiting} of them are written at once");
        ensure!(badge.status == 200 && availability.status == 200, "{badge:?}, {availability:?}");
        anyhow::Ok(())
    });
    meanwhile?;
    for feed in feeds {
        ensure!(feed?.status == 200);
    }
    for incident in incidents {
        ensure!([200, 404].contains(&incident?.status));
    }
    system.finish().await
}

/// 50 incidents of all of 3,000 components: some 40 MB.
async fn a_large_document_is_never_whole_in_memory(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    system
        .sql(
            "INSERT INTO component (name) SELECT 'Component ' || n FROM generate_series(3, 3000) AS n;
            INSERT INTO incident (text, start_date, impact, system)
                SELECT 'Incident ' || n, '2026-01-01', 2, false FROM generate_series(1, 50) AS n;
            INSERT INTO incident_component_relation SELECT i.id, c.id FROM incident i, component c",
        )
        .await?;
    shows(&system, "/api/v2/status.json", "Partial System Outage").await?;
    let before = system.gateways[0].memory()?;
    let document = page(&system, "/api/v2/incidents.json").await?;
    ensure!(document.status == 200 && document.text.len() > 30 << 20, "{}", document.text.len());
    ensure!(document.header("content-length").is_empty(), "{:?}", document.headers);
    let grown = system.gateways[0].peak_memory()?.saturating_sub(before);
    ensure!(grown < 64 << 20, "{} MiB for one document", grown >> 20);
    let document: Value = serde_json::from_str(&document.text)?;
    let incidents = document["incidents"].as_array().context("no incidents")?;
    let lengths: Vec<usize> =
        incidents.iter().filter_map(|i| Some(i["components"].as_array()?.len())).collect();
    ensure!(lengths == [3_000; 50], "{lengths:?}");
    system.finish().await
}

async fn regions_and_components_that_do_not_exist_are_refused_from_memory(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    ensure!(page(&system, "/?region=R1").await?.status == 200);
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE incident, component").execute(&mut *held).await?;
    for path in [
        "/?region=R3",
        "/history?region=R3",
        "/feed.atom?region=R3",
        "/maintenance.ics?region=R3",
        "/feed.atom?component=3",
        "/components/3",
        "/badge/components/3.svg",
    ] {
        let gone = page(&system, path).await?;
        ensure!(gone.status == 404, "{path}: {gone:?}");
    }
    held.rollback().await?;
    system.finish().await
}
