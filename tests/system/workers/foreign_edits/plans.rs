//! What PostgreSQL reads for the record of when components were affected, however many rows there are.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    begin,
    noted::{noted, noting, without_workers},
    run,
};
use harness::{Fixture, System, tests};
use shared::database::BY_INDEX;

tests!(
    a_batch_reads_its_own_incidents_only,
    what_is_noted_is_read_once,
    each_end_reads_its_own_intervals,
);

/// The components of an incident.
const COMPONENTS: i64 = 300;
/// Incidents that have ended, so many that the planner still likes to read all of them.
const OTHERS: i64 = 5_000;

async fn crowded(fixture: &Arc<Fixture>) -> Result<System> {
    let system = without_workers(fixture).await?;
    let many = format!(
        "INSERT INTO component (id, name) SELECT n, 'C' || n FROM generate_series(1001, 1000 + {COMPONENTS}) AS n;
        INSERT INTO incident (id, text, start_date, end_date, impact, system)
        SELECT n, 'Old', '2025-01-01', '2025-01-02', 2, true FROM generate_series(1001, 1000 + {OTHERS}) AS n;
        INSERT INTO incident (id, text, start_date, impact, system) VALUES (1, 'New', '2026-01-01', 2, true)"
    );
    system.sql(&many).await?;
    system.sql("ANALYZE").await?;
    Ok(system)
}

async fn a_batch_reads_its_own_incidents_only(fixture: Arc<Fixture>) -> Result<()> {
    let system = crowded(&fixture).await?;
    let mut batch = noting(&system, &by_index()).await?;
    run(
        &mut batch,
        "INSERT INTO incident_component_relation SELECT 1, id FROM component WHERE id > 1000",
    )
    .await?;
    let read = read(&mut batch, "incident").await?;
    batch.commit().await?;
    ensure!(noted(&system).await? == 1);
    // The foreign key looks up the incident of each relation.
    ensure!(read < COMPONENTS + 20, "{read} incidents were read for {COMPONENTS} relations of one");
    system.finish_without_replay().await
}

/// 10,000 changes that are noted, of 100 incidents with 50 intervals each: as 50 batches write them.
async fn much_noted(fixture: &Arc<Fixture>) -> Result<System> {
    let system = crowded(fixture).await?;
    system
        .sql(
            "INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
            SELECT i.id, c.id, 2, '2025-01-01', '2025-01-02' FROM incident i, component c
            WHERE i.id BETWEEN 1001 AND 1100 AND c.id BETWEEN 1001 AND 1050;
            INSERT INTO sdb_affected_change (incident_id, recorded_at, components, impact, began, ended)
            SELECT i.id, '2025-01-01', ARRAY[1050 + n, 1051 + n], 2,
                '2025-01-01 12:00'::timestamp + n * interval '1 second', '2025-01-02'
            FROM incident i, generate_series(1, 50) AS n WHERE i.id BETWEEN 1001 AND 1100;
            INSERT INTO sdb_affected_change (incident_id, recorded_at, components, ended)
            SELECT i.id, '2025-01-01', ARRAY[1000 + n, 1050 + n], '2025-01-01 18:00'
            FROM incident i, generate_series(1, 50) AS n WHERE i.id BETWEEN 1001 AND 1100;
            ANALYZE",
        )
        .await?;
    ensure!(noted(&system).await? == 10_000);
    Ok(system)
}

/// Rows that a plan handled: those of each node, and those that it read in vain.
fn handled(plan: &Value) -> f64 {
    let number = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let each = number("Actual Rows")
        + number("Rows Removed by Filter")
        + number("Rows Removed by Join Filter")
        + number("Rows Removed by Index Recheck");
    let parts = plan["Plans"].as_array().into_iter().flatten();
    parts.map(handled).sum::<f64>() + each * number("Actual Loops")
}

async fn what_is_noted_is_read_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = much_noted(&fixture).await?;
    let now = "began < '2026-01-01' AND (ended IS NULL OR ended > '2024-01-01')";
    // The conditions are those of the gateway's statements. There are 5,000 intervals, and 20,000 components in what is
    // noted; each of them passes about ten nodes of a plan.
    for (condition, most) in [
        (now.to_owned(), 600_000.0),
        (format!("impact >= 3 AND {now}"), 450_000.0),
        (format!("component_id = 1060 AND {now}"), 120_000.0),
        ("incident_id = 1050".to_owned(), 12_000.0),
    ] {
        let explain = format!(
            "EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM sdb_affected_interval WHERE {condition}"
        );
        let plans: Value =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&system.database).await?;
        let rows = handled(plans.pointer("/0/Plan").context("no plan")?);
        ensure!(rows > 0.0 && rows < most, "{rows} rows were handled for {condition}");
    }
    system.finish_without_replay().await
}

async fn each_end_reads_its_own_intervals(fixture: Arc<Fixture>) -> Result<()> {
    const ENDS: i64 = 3_000;
    let system = crowded(&fixture).await?;
    let one_each = "INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
        SELECT id, 1, 2, '2025-01-01', '2025-01-02' FROM incident WHERE id > 2000; ANALYZE;";
    let (each, half, whole) = (
        format!("SELECT array_agg(n) FROM generate_series(1, {ENDS}) AS n"),
        format!("SELECT array_agg(n) FROM generate_series(1, {ENDS}, 2) AS n"),
        "SELECT NULL::integer[]".to_owned(),
    );
    let both = format!("{half} UNION ALL {whole}");
    // The statistics are those of an empty table, of incidents with one component each, and as they should be.
    for (incident, before, ends, analyze) in [
        (1_001, "", &each, ""),
        (1_002, one_each, &each, ""),
        (1_003, "", &whole, ""),
        (1_004, "", &both, ""),
        (1_005, "", &each, "ANALYZE"),
        (1_006, "", &whole, "ANALYZE"),
        (1_007, "", &both, "ANALYZE"),
    ] {
        let much = format!(
            "{before}
            INSERT INTO sdb_affected (incident_id, component_id, impact, began)
            SELECT {incident}, n, 2, '2025-01-01' FROM generate_series(1, {ENDS}) AS n;
            INSERT INTO sdb_affected_change (incident_id, recorded_at, components, ended)
            SELECT {incident}, '2025-01-01', of_these, '2025-01-02' FROM ({ends}) AS noted (of_these);
            {analyze}"
        );
        system.sql(&much).await?;
        let mut transaction = begin(&system, &by_index()).await?;
        let applied: bool = sqlx::query_scalar("SELECT sdb_affected_apply_some('0', '0')")
            .fetch_one(&mut *transaction)
            .await?;
        let read = read(&mut transaction, "sdb_affected").await?;
        transaction.commit().await?;
        ensure!(applied && noted(&system).await? == 0);
        let open = system.count("SELECT count(*) FROM sdb_affected WHERE ended IS NULL").await?;
        ensure!(open == 0, "{open} are open");
        // Some 10 for each end, or 23 with other statistics; ENDS for each if all were compared with all.
        ensure!(read < ENDS * ENDS / 10, "{read} intervals were read to end {ENDS}");
    }
    system.finish_without_replay().await
}

/// Has the planner work in this transaction as in a worker's.
fn by_index() -> String {
    BY_INDEX.map(|(name, value)| format!("SET LOCAL {name} = {value};")).concat()
}

/// Rows of a table that the transaction has read.
async fn read(transaction: &mut PgConnection, table: &str) -> Result<i64> {
    let read = "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint FROM pg_stat_xact_user_tables
        WHERE relname = $1";
    Ok(sqlx::query_scalar(read).bind(table).fetch_one(transaction).await?)
}
