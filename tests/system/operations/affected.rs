//! When components were affected, for incidents that were written without our triggers.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::time::{Duration, timeout};

use super::{ALEMBIC, ORM, migrate, python_database};
use harness::{Fixture, NOW, System, eventually, tests};

tests!(
    incidents_of_before_affected_their_components_from_start_to_end,
    what_was_written_while_detached_is_compared,
    what_batches_have_noted_is_recorded_before_a_detach,
    rows_that_others_hold_are_completed_when_they_are_free,
    a_migration_that_is_killed_while_it_compares_is_repeated,
);

/// Incident, component, impact, and whether begin and end are those of the incident.
async fn intervals(system: &System) -> Result<Vec<String>> {
    system
        .texts(
            "SELECT incident_id || ' ' || component_id || ' ' || a.impact
                || CASE WHEN began = start_date THEN ' start' ELSE ' later' END
                || CASE WHEN ended IS NULL THEN ' open' WHEN ended = end_date THEN ' end' ELSE ' other' END
            FROM sdb_affected a LEFT JOIN incident ON id = incident_id
            ORDER BY incident_id, component_id, began",
        )
        .await
}

/// Of the Python dashboard's data that the tests have.
const FILLED: [&str; 6] = [
    "4 3 3 start end",
    "4 7 3 start end",
    "10 3 2 start open",
    "11 7 1 start open",
    "15 12 0 start end",
    "16 3 0 start end",
];

async fn are(system: &System, expected: &[&str]) -> Result<()> {
    let found = intervals(system).await?;
    ensure!(found == expected, "{found:#?}, not {expected:#?}");
    ensure!(system.count("SELECT count(*) FROM sdb_affected_pending").await? == 0);
    Ok(())
}

async fn incidents_of_before_affected_their_components_from_start_to_end(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = python_database(&fixture, ALEMBIC).await?;
    // More than are compared at once.
    system
        .sql(
            "INSERT INTO incident (id, text, start_date, end_date, impact, system)
            SELECT n, 'Many', '2020-01-01', '2020-01-02', 1, true FROM generate_series(1000, 2300) n;
            INSERT INTO incident_component_relation
            SELECT n, 13 FROM generate_series(1000, 2300) n",
        )
        .await?;
    for _ in 0..2 {
        migrate(&system).await?;
        let many = "SELECT count(*) FROM sdb_affected WHERE component_id = 13
            AND impact = 1 AND began = '2020-01-01' AND ended = '2020-01-02'";
        ensure!(system.count(many).await? == 1_301);
        let others = intervals(&system).await?;
        let others: Vec<&String> = others.iter().filter(|one| !one.contains(" 13 ")).collect();
        ensure!(others == FILLED, "{others:#?}");
    }
    system.finish_without_replay().await
}

async fn what_was_written_while_detached_is_compared(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ORM).await?;
    migrate(&system).await?;
    are(&system, &FILLED).await?;
    // Attached again without a change, all stays as it is.
    system.worker_succeeds(&["detach"]).await?;
    migrate(&system).await?;
    are(&system, &FILLED).await?;

    system.worker_succeeds(&["detach"]).await?;
    system
        .sql(&format!(
            "-- One ends, one is opened again with another impact, one begins later, one has another component.
            UPDATE incident SET end_date = {NOW} WHERE id = 10;
            UPDATE incident SET end_date = NULL, impact = 2 WHERE id = 4;
            UPDATE incident SET start_date = start_date + interval '1 hour' WHERE id = 16;
            DELETE FROM incident_component_relation WHERE incident_id = 15;
            INSERT INTO incident_component_relation VALUES (15, 13);
            -- One is gone, and one is new; one changes its impact.
            DELETE FROM incident_status WHERE incident_id = 11;
            DELETE FROM incident_component_relation WHERE incident_id = 11;
            DELETE FROM incident WHERE id = 11;
            INSERT INTO incident (id, text, start_date, impact, system)
            VALUES (20, 'New', '2026-01-01', 3, false);
            INSERT INTO incident_component_relation VALUES (20, 3);"
        ))
        .await?;
    migrate(&system).await?;
    let expected = [
        "4 3 3 start other",
        "4 3 2 later open",
        "4 7 3 start other",
        "4 7 2 later open",
        "10 3 2 start end",
        "15 12 0 start other",
        "15 13 0 start end",
        "16 3 0 start end",
        "20 3 3 start open",
    ];
    are(&system, &expected).await?;

    system.worker_succeeds(&["detach"]).await?;
    system.sql("UPDATE incident SET impact = 1 WHERE id IN (10, 20)").await?;
    for _ in 0..2 {
        migrate(&system).await?;
        let changed = intervals(&system).await?;
        ensure!(changed[4] == "10 3 1 start end", "{changed:#?}");
        ensure!(changed[8..] == ["20 3 3 start other", "20 3 1 later open"], "{changed:#?}");
        system.worker_succeeds(&["detach"]).await?;
    }
    system.finish_without_replay().await
}

async fn what_batches_have_noted_is_recorded_before_a_detach(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ORM).await?;
    migrate(&system).await?;
    let mut batch = system.database.begin().await?;
    sqlx::raw_sql(
        "SET LOCAL sdb.affected_later = 'on';
        DELETE FROM incident_component_relation WHERE incident_id = 11;
        INSERT INTO incident_component_relation VALUES (10, 7)",
    )
    .execute(&mut *batch)
    .await?;
    batch.commit().await?;
    are(&system, &FILLED).await?;
    system.worker_succeeds(&["detach"]).await?;
    ensure!(system.count("SELECT count(*) FROM sdb_affected_change").await? == 0);
    let expected = [
        "4 3 3 start end",
        "4 7 3 start end",
        "10 3 2 start open",
        "10 7 2 later open",
        "11 7 1 start other",
        "15 12 0 start end",
        "16 3 0 start end",
    ];
    are(&system, &expected).await?;
    migrate(&system).await?;
    are(&system, &expected).await?;
    system.finish_without_replay().await
}

/// Neither does the comparison wait while it holds rows, nor does it leave anything out in the end.
async fn rows_that_others_hold_are_completed_when_they_are_free(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = python_database(&fixture, ORM).await?;
    migrate(&system).await?;
    // As after `worker detach`; but the constraint stays, because adding it waits for everybody.
    system
        .sql(
            "DROP TRIGGER sdb_affected_insert_open ON incident_component_relation;
            DELETE FROM sdb_affected; DELETE FROM sdb_topology",
        )
        .await?;
    let mut holder = system.database.begin().await?;
    for hold in [
        "SELECT FROM incident WHERE id = 10 FOR SHARE",
        "SELECT FROM incident_component_relation
        WHERE incident_id = 4 AND component_id = 7 FOR UPDATE",
    ] {
        sqlx::raw_sql(hold).execute(&mut *holder).await?;
    }
    // It gives up, says who holds what, and leaves a database that is usable.
    let said = system.worker_succeeds(&["migrate"]).await?;
    ensure!(said.contains("2 incidents (4, 10)") && said.contains("pid "), "{said}");
    ensure!(system.count("SELECT count(*) FROM sdb_affected").await? == 3);
    ensure!(system.count("SELECT count(*) FROM sdb_topology").await? == 1);
    let left = "SELECT count(*) FROM sdb_affected_pending WHERE incidents @> '{4,10}'";
    ensure!(system.count(left).await? == 1);
    // Nobody waits for the comparison.
    system.sql("UPDATE incident SET text = 'Changed meanwhile' WHERE id > 10").await?;
    holder.commit().await.context("the holder")?;
    // A worker goes on with it.
    system.start_worker(&[]).await?;
    eventually("the worker has completed them", async || {
        Ok(system.count("SELECT count(*) FROM sdb_affected_pending").await? == 0)
    })
    .await?;
    are(&system, &FILLED).await?;

    // The function itself leaves out what is held.
    let mut holder = system.database.begin().await?;
    sqlx::raw_sql(
        "DELETE FROM incident_component_relation WHERE incident_id = 4 AND component_id = 7;
        UPDATE incident SET end_date = '2026-01-01' WHERE id = 11",
    )
    .execute(&mut *holder)
    .await?;
    let left = async || -> Result<Vec<i32>> {
        let compare = "SELECT sdb_affected_compare('{4,10,11}')";
        let asked = sqlx::query_scalar(compare).fetch_one(&system.database);
        Ok(timeout(Duration::from_secs(20), asked).await.context("it waits")??)
    };
    let mut held = left().await?;
    held.sort_unstable();
    ensure!(held == [4, 11], "{held:?}");
    holder.rollback().await?;
    ensure!(left().await?.is_empty());
    are(&system, &FILLED).await?;
    system.finish_without_replay().await
}

async fn a_migration_that_is_killed_while_it_compares_is_repeated(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = python_database(&fixture, ORM).await?;
    migrate(&system).await?;
    system.worker_succeeds(&["detach"]).await?;
    system.sql("DELETE FROM sdb_affected WHERE incident_id = 10").await?;
    // The comparison fails at its second incident.
    system
        .sql(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'stopped here'; END $$;
            CREATE TRIGGER fail BEFORE INSERT ON sdb_affected FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        .await?;
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(!done && said.contains("stopped here"), "{said}");
    ensure!(system.count("SELECT count(*) FROM sdb_affected_pending").await? == 1);
    system.sql("DROP TRIGGER fail ON sdb_affected").await?;
    migrate(&system).await?;
    are(&system, &FILLED).await?;
    system.finish_without_replay().await
}
