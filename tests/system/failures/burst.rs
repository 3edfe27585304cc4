//! A storm: many clients, many components, every update exactly once.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;

use harness::{
    Fixture, System,
    burst::{Burst, add_components, took_effect_once, update},
    eventually, replay, tests,
    verdict::Answered,
};

tests!(
    ten_thousand_updates_take_effect_exactly_once,
    a_batch_reads_its_own_part_of_the_inbox_by_its_index,
    a_burst_survives_the_death_of_a_worker,
    an_inbox_that_differs_from_what_clients_were_answered_is_found,
);

const CLIENTS: usize = 64;

/// Posts updates `0..count` from many clients, in turn to all gateways; returns their ids.
async fn burst(system: &System, count: usize) -> Result<Vec<String>> {
    let clients = (0..CLIENTS).map(async |client| -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for number in (client..count).step_by(CLIENTS) {
            let gateway = number % system.gateways.len();
            // The answer to one may be lost with a worker that is killed.
            let request = system.update_to(gateway, &update(number)).header("Prefer", "wait=10");
            let response = request.send().await?;
            let status = response.status();
            ensure!(status.is_success(), "{status}: {}", response.text().await?);
            let id = response.headers().get("update-id").context("no Update-Id")?;
            ids.push(id.to_str()?.to_owned());
            response.bytes().await?;
        }
        Ok(ids)
    });
    Ok(try_join_all(clients).await?.into_iter().flatten().collect())
}

/// Every id that was answered is in the inbox once, and nothing else is.
async fn inbox_has_exactly(system: &System, ids: Vec<String>) -> Result<()> {
    let answered = ids.len();
    let ids: BTreeSet<String> = ids.into_iter().collect();
    ensure!(ids.len() == answered, "ids were given twice");
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM sdb_inbox").fetch_all(&system.database).await?;
    ensure!(stored.len() == answered, "{} rows for {answered} updates", stored.len());
    ensure!(stored.into_iter().collect::<BTreeSet<_>>() == ids, "the inbox has other updates");
    Ok(())
}

async fn ten_thousand_updates_take_effect_exactly_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    add_components(&system).await?;
    let ids = burst(&system, 10_000).await?;
    system.drained().await?;
    inbox_has_exactly(&system, ids).await?;
    replay::agrees(&system.database).await?;
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}

/// PostgreSQL plans for an inbox that is empty, as each part is when its week begins.
async fn a_batch_reads_its_own_part_of_the_inbox_by_its_index(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    add_components(&system).await?;
    burst(&system, 500).await?;
    system.drained().await?;
    let parts: Vec<String> = sqlx::query_scalar(
        "SELECT relid::regclass::text FROM pg_partition_tree('sdb_inbox') WHERE isleaf
        ORDER BY sdb_first_id(clock_timestamp() AT TIME ZONE 'UTC')
            BETWEEN sdb_first_id(to_date(right(relid::regclass::text, 8), 'YYYYMMDD'))
            AND sdb_first_id(to_date(right(relid::regclass::text, 8), 'YYYYMMDD') + 7) DESC",
    )
    .fetch_all(&system.database)
    .await?;
    let (current, others) = parts.split_first().context("no parts")?;
    ensure!(others.len() > 3, "{parts:?}");
    let scans = async |part: &str, which: &str| {
        let query = format!(
            "SELECT coalesce(sum({which}), 0)::bigint FROM pg_stat_user_tables WHERE relname = '{part}'"
        );
        system.count(&query).await
    };
    // What a session did is counted a while later.
    eventually("batches read the inbox", async || Ok(scans(current, "idx_scan").await? > 20))
        .await?;
    for part in &parts {
        let whole = scans(part, "seq_scan").await?;
        // PostgreSQL does so when the part is made and attached, and these tests do.
        ensure!(whole < 5, "{part} was read as a whole {whole} times");
    }
    for part in others {
        let looked_at = scans(part, "idx_scan").await?;
        ensure!(looked_at == 0, "{part} was looked at {looked_at} times");
    }
    system.finish().await
}

async fn a_burst_survives_the_death_of_a_worker(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    add_components(&system).await?;
    let killed = async {
        // In the middle: some are decided, many are not.
        eventually("some updates are decided", async || {
            Ok(system.count("SELECT count(*) FROM sdb_inbox").await? > 300)
        })
        .await?;
        system.workers[0].signal(Signal::SIGKILL)
    };
    let (ids, killed) = tokio::join!(burst(&system, 3_000), killed);
    killed?;
    system.drained().await?;
    inbox_has_exactly(&system, ids?).await?;
    replay::agrees(&system.database).await?;
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}

/// The check that ends every burst looks at something: each damage to the inbox is found.
async fn an_inbox_that_differs_from_what_clients_were_answered_is_found(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    let burst = Burst::start(&system).await?;
    eventually("there is an inbox to damage", async || {
        Ok(system.count("SELECT count(*) FROM sdb_inbox").await? > 500)
    })
    .await?;
    let mut sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;

    // Behind the journal's back: nobody did it.
    let behind = |damage: &str| format!("SET session_replication_role = replica; {damage};");
    let notices = async |damage: &str, repair: &str, sent: &[_], problem: &str| -> Result<()> {
        let mut database = system.database.acquire().await?.detach();
        let statements = sqlx::AssertSqlSafe(behind(damage));
        sqlx::raw_sql(statements).execute(&mut database).await?;
        let found = took_effect_once(&system, sent).await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(behind(repair))).execute(&mut database).await?;
        let found = found.err().with_context(|| format!("{damage}: nothing was noticed"))?;
        ensure!(found.to_string().contains(problem), "{damage}: {found:#}");
        Ok(())
    };
    // All of a component's updates at the places of others of it, the last one first.
    let backwards = "UPDATE sdb_inbox SET position = -position WHERE component_id = 7";
    notices(backwards, backwards, &sent, "out of order: ").await?;
    let lose = "CREATE TABLE lost AS SELECT * FROM sdb_inbox ORDER BY position DESC LIMIT 1;
        DELETE FROM sdb_inbox WHERE id = (SELECT id FROM lost)";
    let find = "INSERT INTO sdb_inbox SELECT * FROM lost";
    notices(lose, find, &sent, "lost: ").await?;
    let invent = "CREATE TABLE invented AS SELECT * FROM sdb_inbox LIMIT 1;
        UPDATE invented SET id = (left(id::text, 24) || '000000000000')::uuid;
        INSERT INTO sdb_inbox SELECT * FROM invented";
    let forget = "DELETE FROM sdb_inbox WHERE id = (SELECT id FROM invented)";
    notices(invent, forget, &sent, "nobody sent").await?;
    let other = "UPDATE sdb_inbox SET incident_id = incident_id + 1 WHERE position = 7";
    let same = "UPDATE sdb_inbox SET incident_id = incident_id - 1 WHERE position = 7";
    notices(other, same, &sent, "decided otherwise than by the model: ").await?;
    let tear = "CREATE TABLE torn AS SELECT * FROM incident_status LIMIT 1;
        DELETE FROM incident_status WHERE id = (SELECT id FROM torn)";
    let restore = "INSERT INTO incident_status SELECT * FROM torn";
    notices(tear, restore, &sent, "another timeline than the model's: ").await?;
    let part = "CREATE TABLE parted AS SELECT * FROM incident_component_relation LIMIT 1;
        DELETE FROM incident_component_relation r USING parted p
        WHERE r.incident_id = p.incident_id AND r.component_id = p.component_id";
    let join = "INSERT INTO incident_component_relation SELECT * FROM parted";
    notices(part, join, &sent, "another state than the model's: ").await?;
    // One that was taken was refused, says the client.
    let last = sent.last_mut().context("nothing was sent")?;
    if let Some(id) = last.answer.taken() {
        last.answer = Answered::Refused(Some(id), "not now".to_owned());
    }
    notices("", "", &sent, "took effect after `not now`").await?;
    system.finish().await
}
