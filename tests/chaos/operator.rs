//! Operators who write as the Python dashboard's pages do: in the middle of things, without a lock of
//! ours, sometimes with a transaction that they hold open for seconds. They close all incidents now and
//! then, so that the updates that follow change something again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use harness::verdict;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};

use crate::{load::Load, random::Random};

/// The name of an operator's connection.
pub(crate) const NAME: &str = "operator";
/// How the title of an incident begins that is an operator's.
pub(crate) const TITLE: &str = "operator";
/// Time for an edit, the time that it is held open included.
const PATIENCE: Duration = Duration::from_secs(12);
/// Edits that are held open, of a hundred, and that are given up at last, of these.
const HELD: usize = 35;
const GIVEN_UP: usize = 20;

const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";
const NEW: &str = "currval(pg_get_serial_sequence('incident', 'id'))";

/// What operators did.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// Transactions whose commit was confirmed, and what they did.
    pub(crate) confirmed: Vec<(u64, String)>,
    /// Edits that were held open for longer than a moment.
    pub(crate) held: usize,
    /// Edits that failed, or whose result is unknown.
    pub(crate) unknown: usize,
}

/// What an edit does.
struct Edit {
    what: &'static str,
    statements: String,
    held: Duration,
    is_given_up: bool,
}

/// Connections of operators.
pub(crate) fn connections(database_uri: &str) -> Result<PgPool> {
    let options: PgConnectOptions = database_uri.parse()?;
    let pool = PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(3));
    Ok(pool.connect_lazy_with(options.application_name(NAME)))
}

/// Writes until it is dropped.
pub(crate) async fn write_now_and_then(
    database: &PgPool,
    load: &Arc<Load>,
    mut random: Random,
    edits: &Mutex<Edits>,
) {
    loop {
        sleep(random.millis(500, 5_000)).await;
        let edit = draw(&mut random);
        let done = timeout(PATIENCE, make(database, &edit, edits)).await;
        let done = done.context("silence").and_then(|done| done);
        let Edit { what, held, .. } = edit;
        match done {
            Ok(rows) => load.diary.note(format!("operator: {what}: {rows} rows, after {held:.1?}")),
            Err(error) => {
                noted(edits).unknown += 1;
                load.diary.note(format!("operator: {what}: {error:#}"));
            }
        }
    }
}

fn noted(edits: &Mutex<Edits>) -> std::sync::MutexGuard<'_, Edits> {
    edits.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One transaction; returns how many rows it wrote. An error may leave it committed: the journal knows.
async fn make(database: &PgPool, edit: &Edit, edits: &Mutex<Edits>) -> Result<u64> {
    // A connection that is dropped in the middle is closed, not used again.
    let mut connection: PgConnection = database.acquire().await?.detach();
    sqlx::raw_sql("BEGIN; SET LOCAL lock_timeout = '5s'").execute(&mut connection).await?;
    let statements = AssertSqlSafe(edit.statements.clone());
    let rows = sqlx::raw_sql(statements).execute(&mut connection).await?.rows_affected();
    let xid: Option<i64> =
        sqlx::query_scalar("SELECT pg_current_xact_id_if_assigned()::text::bigint")
            .fetch_one(&mut connection)
            .await?;
    if !edit.held.is_zero() {
        noted(edits).held += 1;
        sleep(edit.held).await;
    }
    if edit.is_given_up {
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await?;
        return Ok(0);
    }
    sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
    if let (Some(xid), true) = (xid, rows > 0) {
        noted(edits).confirmed.push((u64::try_from(xid)?, edit.what.to_owned()));
    }
    // Whatever begins from now on must honour it.
    verdict::mark(&mut connection).await?;
    connection.close().await?;
    Ok(rows)
}

fn draw(random: &mut Random) -> Edit {
    let component = 1 + random.below(harness::burst::COMPONENTS);
    let (what, statements) = match random.below(100) {
        0..25 => (
            "closes all",
            format!("UPDATE incident SET end_date = {NOW} WHERE end_date IS NULL AND impact > 0"),
        ),
        25..40 => (
            "takes an incident over",
            format!(
                "WITH taken AS (
                    UPDATE incident SET system = false, text = '{TITLE}: ' || text
                    WHERE id = (SELECT id FROM incident WHERE system AND end_date IS NULL
                        ORDER BY random() LIMIT 1) RETURNING id)
                INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT id, {NOW}, 'we look into it', 'analyzing' FROM taken"
            ),
        ),
        40..50 => (
            "says something",
            format!(
                "INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT id, {NOW}, 'soon', 'fixing' FROM incident WHERE end_date IS NULL
                ORDER BY random() LIMIT 1"
            ),
        ),
        50..65 => {
            let impact = 1 + random.below(3);
            (
                "opens an incident",
                format!(
                    "INSERT INTO incident (text, start_date, impact, system)
                    VALUES ('{TITLE}: seen', {NOW}, {impact}, false);
                    INSERT INTO incident_component_relation (incident_id, component_id)
                    SELECT {NEW}, {component}"
                ),
            )
        }
        65..80 => {
            let (start, seconds) = (random.below(4), 2 + random.below(10));
            (
                "schedules a maintenance",
                format!(
                    "INSERT INTO incident (text, start_date, end_date, impact, system)
                    VALUES ('{TITLE}: planned', {NOW} + interval '{start} seconds',
                        {NOW} + interval '{seconds} seconds', 0, false);
                    INSERT INTO incident_component_relation (incident_id, component_id)
                    SELECT {NEW}, id FROM component WHERE id BETWEEN {component} AND {component} + 4"
                ),
            )
        }
        80..90 => (
            "separates a component",
            format!(
                "WITH one AS (
                    SELECT incident_id, component_id FROM incident_component_relation r
                    JOIN incident i ON i.id = r.incident_id
                    WHERE i.end_date IS NULL AND i.impact > 0 ORDER BY random() LIMIT 1
                ), gone AS (
                    DELETE FROM incident_component_relation r USING one
                    WHERE r.incident_id = one.incident_id AND r.component_id = one.component_id
                    RETURNING r.incident_id, r.component_id
                ), opened AS (
                    INSERT INTO incident (text, start_date, impact, system)
                    SELECT '{TITLE}: separated', {NOW}, i.impact, false
                    FROM gone JOIN incident i ON i.id = gone.incident_id RETURNING id
                )
                INSERT INTO incident_component_relation (incident_id, component_id)
                SELECT opened.id, gone.component_id FROM opened, gone"
            ),
        ),
        _ => (
            "opens one again",
            format!(
                "UPDATE incident SET end_date = NULL
                WHERE id = (SELECT id FROM incident WHERE NOT system AND impact > 0
                    AND end_date > {NOW} - interval '20 seconds' ORDER BY random() LIMIT 1)"
            ),
        ),
    };
    let is_held = random.percent(HELD);
    let held = if is_held { random.millis(200, 4_000) } else { Duration::ZERO };
    let is_given_up = is_held && random.percent(GIVEN_UP);
    Edit { what, statements, held, is_given_up }
}
