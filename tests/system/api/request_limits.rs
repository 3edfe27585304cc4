//! Limits of SECURITY.md on what one request, or many of one kind, can cost: the time until an answer starts,
//! and how often unknown components have the catalogue read.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use harness::{Answer, Fixture, System, eventually, eventually_within, proxy::Proxy, tests};

tests!(
    an_answer_starts_within_40_seconds_though_a_server_is_silent,
    unknown_components_have_the_catalogue_read_ten_times_a_second_at_most,
);

/// Time from a request to the start of its answer, which is no setting.
const REQUEST_LIMIT: Duration = Duration::from_secs(40);

async fn an_answer_starts_within_40_seconds_though_a_server_is_silent(
    fixture: Arc<Fixture>,
) -> Result<()> {
    const REQUESTS: usize = 8;
    let mut system = System::prepared(&fixture).await?;
    let proxy = Proxy::before(&system.database_uri).await?;
    system.start_gateway(&[("SDB_DATABASE_URI", proxy.uri())]).await?;
    // An id of 2020: its receipt is 404 once the database has been asked.
    let id = Uuid::parse_str("01700000-0000-7000-8000-000000000000")?;
    let receipt = format!("/api/v1/updates/{id}");
    let ask = async || -> Result<(Answer, Duration)> {
        let begin = Instant::now();
        let answer = system.get(&receipt).await?;
        Ok((answer, begin.elapsed()))
    };
    let together = async || try_join_all((0..REQUESTS).map(|_| ask())).await;
    let limit = Duration::from_secs(120);
    eventually_within(limit, "a request waits for the silent server", async || {
        proxy.pass();
        eventually("the server answers", async || {
            Ok(together().await?.iter().all(|(answer, _)| answer.status == 404))
        })
        .await?;
        // A connection that was used within the last second is not checked before it is used again, so that
        // the query itself waits.
        proxy.silence();
        let mut ended_by_the_limit = 0;
        for (answer, took) in together().await? {
            ensure!(answer.status == 503, "{answer:?}");
            ensure!(took < REQUEST_LIMIT + Duration::from_secs(20), "it took {took:?}");
            if answer.body["message"] == "A server does not answer; try again" {
                ensure!(took >= REQUEST_LIMIT, "it took {took:?}");
                ended_by_the_limit += 1;
            }
        }
        Ok(ended_by_the_limit > 0)
    })
    .await?;
    proxy.pass();
    system.finish().await
}

async fn unknown_components_have_the_catalogue_read_ten_times_a_second_at_most(
    fixture: Arc<Fixture>,
) -> Result<()> {
    const CLIENTS: usize = 16;
    const LOAD: Duration = Duration::from_secs(3);
    let mut system = System::prepared(&fixture).await?;
    // PostgreSQL counts what a session has read when the session's next statement ends, a second later at the
    // earliest. A single connection is in use all the time, since the gateway looks for changes twice a second.
    system.start_gateway(&[("SDB_DATABASE_CONNECTIONS", "1")]).await?;
    let reads = async || {
        let query = "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables
            WHERE relname = 'sdb_version'";
        system.count(query).await
    };
    let (before, begin) = (reads().await?, Instant::now());
    let post_all = async |client: usize| -> Result<usize> {
        let mut posted = 0;
        while begin.elapsed() < LOAD {
            let name = format!("Unknown {client} {posted}");
            let refused = system.post(&json!({ "name": name, "impact": 1 })).await?;
            ensure!(refused.status == 400, "{refused:?}");
            posted += 1;
        }
        Ok(posted)
    };
    let posted: usize = try_join_all((0..CLIENTS).map(&post_all)).await?.into_iter().sum();
    let load = begin.elapsed();
    sleep(Duration::from_secs(2)).await;
    let read = reads().await? - before;
    // Ten in a second for requests, two in a second beside them, and what was not counted before.
    let most = 10.0 * load.as_secs_f64() + 2.0 * begin.elapsed().as_secs_f64() + 5.0;
    ensure!((read as f64) < most, "{read} reads in {load:?} for {posted} updates");
    ensure!(read > 10, "only {read} reads in {load:?}: the test counts something else");
    ensure!(posted > 2 * read as usize, "only {posted} updates: the limit was not reached");
    system.finish().await
}
