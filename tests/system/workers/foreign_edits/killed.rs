//! Workers are killed while they apply what is noted of when components were affected.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::noted::{note, noted, without_workers};
use harness::{Fixture, System, eventually, tests};

tests!(what_is_noted_is_applied_once_although_workers_are_killed);

/// Workers that apply at the same time.
const WORKERS: usize = 3;
/// How many of them are killed, one after the other.
const KILLED: usize = 6;
/// The first of the incidents of which something is noted, how many there are, and how many are applied between
/// two kills.
const FIRST: usize = 100;
const INCIDENTS: usize = 60;
const AT_ONCE: usize = 8;

/// Much is noted long ago: of each incident, that it began, that components left and came back, and of some the end.
async fn note_much(system: &System) -> Result<()> {
    system
        .sql("INSERT INTO component (name) SELECT 'C' || n FROM generate_series(1, 60) AS n")
        .await?;
    for id in FIRST..FIRST + INCIDENTS {
        let open = format!(
            "INSERT INTO incident (id, text, start_date, impact, system)
            VALUES ({id}, 'By hand', '2026-01-01 10:00', 2, false);
            INSERT INTO incident_component_relation SELECT {id}, id FROM component"
        );
        note(system, &open).await?;
    }
    for change in [
        "DELETE FROM incident_component_relation WHERE component_id % 3 = 0",
        "INSERT INTO incident_component_relation
            SELECT i.id, c.id FROM incident i, component c WHERE c.id % 6 = 0",
        "UPDATE incident SET end_date = clock_timestamp() AT TIME ZONE 'UTC' WHERE id % 2 = 0",
    ] {
        note(system, change).await?;
    }
    system
        .sql("UPDATE sdb_affected_change SET recorded_at = recorded_at - interval '25 seconds'")
        .await
}

/// All rows as one text.
async fn rows(system: &System, of: &str) -> Result<String> {
    let all = format!("SELECT coalesce(string_agg(a::text, ' ' ORDER BY a), '') FROM {of} a");
    system.texts(&all).await?.pop().context("no row")
}

async fn what_is_noted_is_applied_once_although_workers_are_killed(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = without_workers(&fixture).await?;
    note_much(&system).await?;
    // A worker that applies waits in the midst of an incident until the test lets it go on.
    let gate = format!(
        "CREATE TABLE gate AS SELECT {FIRST} AS incident;
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            WHILE EXISTS (SELECT FROM gate WHERE (NEW.incident_id, NEW.component_id) > (incident, 30)) LOOP
                PERFORM pg_sleep(0.05);
            END LOOP;
            RETURN NEW;
        END $$;
        CREATE TRIGGER wait BEFORE INSERT OR UPDATE ON sdb_affected
        FOR EACH ROW EXECUTE FUNCTION wait()"
    );
    system.sql(&gate).await?;
    let expected = rows(&system, "sdb_affected_interval").await?;
    for _ in 0..WORKERS {
        system.start_worker(&[]).await?;
    }
    let waiting = "FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
        AND wait_event = 'PgSleep' AND query LIKE '%sdb_affected_apply_some%'";
    let waiters = format!("SELECT count(*) {waiting}");
    for killed in 1..=KILLED {
        let all_wait = async || Ok(system.count(&waiters).await? == WORKERS as i64);
        eventually("every worker applies", all_wait).await?;
        ensure!(rows(&system, "sdb_affected_interval").await? == expected, "readers see it");
        drop(system.workers.remove(0));
        // A server notices the end of a client at once only if its machine closes the connection.
        if killed % 2 == 0 {
            system.sql(&format!("SELECT pg_terminate_backend(pid) {waiting}")).await?;
        }
        let worker = system.launch("worker", &[])?;
        system.workers.push(worker);
        let next = FIRST + killed * AT_ONCE;
        system.sql(&format!("UPDATE gate SET incident = {next}")).await?;
        let left = format!("SELECT count(*) FROM sdb_affected_change WHERE incident_id < {next}");
        eventually("some are applied", async || Ok(system.count(&left).await? == 0)).await?;
    }
    system.sql("UPDATE gate SET incident = 1000").await?;
    eventually("all is applied", async || Ok(noted(&system).await? == 0)).await?;
    ensure!(rows(&system, "sdb_affected").await? == expected, "the record is another one");
    ensure!(rows(&system, "sdb_affected_interval").await? == expected, "readers see another one");
    system.finish().await
}
