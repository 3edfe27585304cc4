//! A list is read once for all requests that wait for it.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{CATALOGUE, get, windows};
use harness::{COMPONENT_STATUS, Fixture, INCIDENTS, System, eventually, tests, unless_unanswered};

tests!(
    a_list_is_read_once_for_all_requests_that_wait_for_it,
    a_list_that_cannot_be_read_fails_for_all_waiting_requests_at_once,
);

/// PostgreSQL ends a statement that waits for a lock after so long.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
async fn a_list_is_read_once_for_all_requests_that_wait_for_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (1, 1)").await?;
    let readers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'gateway' AND wait_event_type = 'Lock'";
    for (path, statement) in [
        (INCIDENTS, "UPDATE incident SET text = 'Changed' WHERE id = 1"),
        (COMPONENT_STATUS, "UPDATE incident SET text = 'Changed again' WHERE id = 1"),
    ] {
        let old = get(&system, path, &[]).await?;
        system.sql(statement).await?;
        let mut held = system.database.begin().await?;
        sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
        let began = Instant::now();
        let all =
            join_all((0..20).map(|_| {
                unless_unanswered(async || get(&system, path, &[]).await, |got| got.status)
            }));
        let meanwhile = async {
            eventually("a list is being read", async || Ok(system.count(readers).await? > 0))
                .await?;
            // Long enough for the others to come.
            sleep(Duration::from_millis(500)).await;
            let waiting = system.count(readers).await?;
            held.rollback().await?;
            // On a machine that stalls, the one that waits may have been ended.
            let is_late = began.elapsed() >= LOCK_LIMIT;
            ensure!(waiting == 1 || is_late, "{path} is read {waiting} times at once");
            anyhow::Ok(())
        };
        let (all, meanwhile) = tokio::join!(all, meanwhile);
        meanwhile?;
        for got in all {
            let got = got?;
            ensure!(got.status == 200 && got.bytes != old.bytes, "{path} is stale");
        }
    }

    // Nothing changes: no reader needs the rows.
    get(&system, INCIDENTS, &[]).await?;
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
    for path in [INCIDENTS, COMPONENT_STATUS] {
        ensure!(get(&system, path, &[]).await?.status == 200, "{path}");
    }
    held.rollback().await?;
    system.finish().await
}

async fn a_list_that_cannot_be_read_fails_for_all_waiting_requests_at_once(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    for path in [INCIDENTS, COMPONENT_STATUS, "/api/v1/incidents?limit=3"] {
        let mut held = system.database.begin().await?;
        sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
        let began = Instant::now();
        let all = join_all((0..20).map(|_| get(&system, path, &[]))).await;
        let took = began.elapsed();
        held.rollback().await?;
        for got in all {
            let got = got?;
            ensure!(got.status == 503, "{path}: {}", got.status);
            ensure!(!got.header("retry-after").is_empty(), "{path}: {:?}", got.headers);
        }
        // One after the other, they would take 100 s.
        ensure!(took < 6 * LOCK_LIMIT, "{path}: the last of 20 waited {took:?}");
        // What failed is not kept.
        ensure!(get(&system, path, &[]).await?.status == 200, "{path}");
    }
    system.finish().await
}
