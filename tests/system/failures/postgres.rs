//! PostgreSQL fails.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use harness::{Fixture, System, answer, burst::Burst, eventually, tests};
use reqwest::Method;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep_until};

use super::{LISTS, is_degraded, lists_go_on, start_on, survived};

tests!(
    postgres_is_stopped_and_started,
    postgres_is_killed_and_started,
    postgres_stalls,
    postgres_has_no_connection_left,
    postgres_fails_over_to_a_standby,
);

/// Both gateways accept updates, refuse to show lists and say why.
async fn accepts_without_lists(system: &System, burst: &Burst) -> Result<()> {
    burst.is_accepted().await?;
    for gateway in 0..system.gateways.len() {
        is_degraded(system, gateway, "PostgreSQL can't be reached").await?;
        for path in LISTS {
            let list = answer(system.request_to(gateway, Method::GET, path)).await?;
            ensure!(list.status == 503 && list.header("retry-after") == "1", "{path}: {list:?}");
        }
    }
    Ok(())
}

async fn postgres_is_stopped_and_started(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let (system, burst) = start_on(&own).await?;
    own.postgres().stop();
    accepts_without_lists(&system, &burst).await?;
    own.postgres().start()?;
    survived(system, burst).await
}

async fn postgres_is_killed_and_started(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let (system, burst) = start_on(&own).await?;
    own.postgres().kill();
    accepts_without_lists(&system, &burst).await?;
    own.postgres().start()?;
    survived(system, burst).await
}

async fn postgres_stalls(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let (system, burst) = start_on(&own).await?;
    let end = Instant::now() + Duration::from_secs(15);
    own.postgres().pause();
    accepts_without_lists(&system, &burst).await?;
    sleep_until(end).await;
    own.postgres().resume();
    survived(system, burst).await
}

/// Ends the workers' connections; returns how many there were.
async fn end_workers_connections(system: &System, by: &mut PgConnection) -> Result<usize> {
    let ended: Vec<bool> = sqlx::query_scalar(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = $1 AND application_name LIKE 'worker%'",
    )
    .bind(&system.vhost)
    .fetch_all(by)
    .await?;
    Ok(ended.len())
}

async fn postgres_has_no_connection_left(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let (system, burst) = start_on(&own).await?;
    // From here on the gateways have connections for lists, too.
    lists_go_on(&system).await?;
    // Others take what is free, and what the workers lose.
    let mut others = vec![PgConnection::connect(&own.postgres().uri()).await?];
    // A place that a worker lost may become free only after it was looked for: nobody gets one any
    // more when there was none, and no worker had one, two times in a row.
    let mut quiet = 0;
    eventually("the workers are without a connection", async || {
        let before = others.len();
        while let Ok(other) = PgConnection::connect(&own.postgres().uri()).await {
            others.push(other);
        }
        let ended = end_workers_connections(&system, &mut others[0]).await?;
        quiet = if ended == 0 && others.len() == before { quiet + 1 } else { 0 };
        Ok(quiet == 2)
    })
    .await?;
    burst.is_accepted().await?;
    for gateway in 0..system.gateways.len() {
        for path in LISTS {
            eventually(&format!("gateway {gateway} shows {path}"), async || {
                let list = answer(system.request_to(gateway, Method::GET, path)).await?;
                // An answer that takes too long costs the gateway its connection, of which a worker may take the place.
                if list.status != 200 {
                    end_workers_connections(&system, &mut others[0]).await?;
                }
                Ok(list.status == 200)
            })
            .await?;
        }
    }
    for other in others {
        other.close().await?;
    }
    survived(system, burst).await
}

async fn postgres_fails_over_to_a_standby(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let (system, burst) = start_on(&own).await?;
    own.postgres().stop();
    own.postgres().start_as_standby()?;
    ensure!(own.postgres().psql("postgres", "SELECT pg_is_in_recovery()")? == "t");
    // It shows all, and takes no decision.
    burst.is_accepted().await?;
    for gateway in 0..system.gateways.len() {
        eventually("the lists are there again", async || {
            let list = answer(system.request_to(gateway, Method::GET, LISTS[0])).await?;
            Ok(list.status == 200)
        })
        .await?;
    }
    lists_go_on(&system).await?;
    burst.is_accepted().await?;
    ensure!(own.postgres().psql("postgres", "SELECT pg_promote()")? == "t");
    survived(system, burst).await
}
