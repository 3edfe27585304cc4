//! What operators do: prepare databases, set settings, apply catalogues, run commands.

mod adopt;
mod affected;
mod catalogue;
mod commands;
mod detach;
mod policies;
mod prepare;
mod printing;
mod rights;
pub(crate) mod run;
mod settings;
mod start;
mod takeover;
mod times;
mod tokens;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{Fixture, NOW, Process, SECRET, System, tests_of};

tests_of!(
    adopt,
    affected,
    catalogue,
    commands,
    detach,
    policies,
    prepare,
    printing,
    rights,
    run,
    run::packages,
    settings,
    start,
    takeover,
    times,
    tokens
);

const ALEMBIC: &str = include_str!("../../data/python-alembic.sql");

const ORM: &str = include_str!("../../data/python-orm.sql");

const ALEMBIC_HEAD: &str = "14621c95e3ee";

const TABLES: [&str; 5] = [
    "component",
    "component_attribute",
    "incident",
    "incident_component_relation",
    "incident_status",
];

/// What a Python dashboard has written, with explicit ids, which its sequences know nothing of.
/// 4 is closed, 10 an active one of the system, 11 a manual one, 15 a running maintenance and 16 a
/// planned one.
const DATA: &str = "
INSERT INTO component (id, name) VALUES (3, 'DNS'), (7, 'CDN'), (12, 'Mail'), (13, 'Mail');
INSERT INTO component_attribute (id, component_id, name, value) VALUES
    (6, 3, 'region', 'R1'), (5, 3, 'category', 'Net'), (9, 7, 'region', 'R1'),
    (19, 12, 'region', 'R1'), (20, 13, 'region', 'R2');
INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
    (4, 'Closed <long> ago', '2024-01-01 10:00:00.123456', '2024-01-01 12:00', 3, true),
    (10, 'Of the system', now_utc - interval '1 hour', NULL, 2, true),
    (11, 'Of an operator', now_utc - interval '2 hours', NULL, 1, false),
    (15, 'Maintenance', now_utc - interval '30 minutes', now_utc + interval '1 hour', 0, false),
    (16, 'Planned', now_utc + interval '1 day', now_utc + interval '2 days', 0, false);
INSERT INTO incident_component_relation VALUES (4, 3), (4, 7), (10, 3), (11, 7), (15, 12), (16, 3);
INSERT INTO incident_status (id, incident_id, timestamp, text, status) VALUES
    (8, 4, '2024-01-01 12:00', 'It''s <b>done</b>', 'resolved'),
    (9, 11, '2024-01-02', 'We look', 'analyzing'), (31, NULL, '2024-01-02', 'Of nothing', 'SYSTEM');
";

/// A database as the Python dashboard leaves it, data and all.
async fn python_database(fixture: &Arc<Fixture>, form: &str) -> Result<System> {
    let system = System::bare(fixture).await?;
    system.sql(form).await?;
    if form == ALEMBIC {
        system.sql(&format!("INSERT INTO alembic_version VALUES ('{ALEMBIC_HEAD}')")).await?;
    }
    system.sql(&DATA.replace("now_utc", NOW)).await?;
    Ok(system)
}

/// Every row of the five tables.
async fn contents(system: &System) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for table in TABLES {
        let query = format!("SELECT '{table} ' || t::text FROM {table} t ORDER BY 1");
        rows.extend(system.texts(&query).await?);
    }
    Ok(rows)
}

/// What hangs on the five tables: columns, indexes, triggers and constraints.
async fn attachments(system: &System) -> Result<Vec<String>> {
    let tables = TABLES.map(|table| format!("'{table}'::regclass")).join(", ");
    system.texts(&format!(
            "SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN ({tables})
            UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger
                WHERE tgrelid IN ({tables}) AND NOT tgisinternal
            UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' '
                    || pg_get_constraintdef(oid)
                FROM pg_constraint WHERE conrelid IN ({tables})
            UNION ALL SELECT 'column ' || attrelid::regclass || ' ' || attname || ' '
                    || format_type(atttypid, atttypmod) || ' ' || attnotnull
                    || coalesce(pg_get_expr(adbin, adrelid), '')
                FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                WHERE attrelid IN ({tables}) AND attnum > 0
            ORDER BY 1"
        ),
    )
    .await
}

async fn migrate(system: &System) -> Result<String> {
    system.worker_succeeds(&["migrate"]).await
}

/// Starts gateway and worker on a database that is prepared.
async fn run(system: &mut System) -> Result<()> {
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await
}

fn update(name: &str, region: &str, impact: u8) -> Value {
    json!({
        "name": name,
        "impact": impact,
        "attributes": [{ "name": "region", "value": region }],
    })
}

/// Posts an update and expects this status and incident.
async fn post(system: &System, body: &Value, status: u16, incident: i64) -> Result<()> {
    let answer = system.post(body).await?;
    ensure!(answer.status == status, "{body}: {answer:?}");
    ensure!(answer.body["id"] == incident, "{body}: {answer:?}, not {incident}");
    Ok(())
}

const CONSTRAINT: &str = "SELECT count(*) FROM pg_constraint
    WHERE conname = 'sdb_one_active_system_incident_per_impact'";

/// Starts a program that does not go on, and returns its log.
async fn refused(system: &mut System, program: &str, variables: &[(&str, &str)]) -> Result<String> {
    let mut process: Process = system.launch(program, variables)?;
    let status = process.ended().await?;
    let log = process.log()?;
    ensure!(!status.success(), "{program} {variables:?}: {log}");
    ensure!(!log.contains("panicked") && !log.contains(SECRET), "{program}: {log}");
    Ok(log)
}

/// A catalogue file of the test's own.
fn file(fixture: &Fixture, name: &str, yaml: &str) -> Result<PathBuf> {
    let path = fixture.folder.join(name);
    fs::write(&path, yaml)?;
    Ok(path)
}

async fn apply(system: &System, path: &Path) -> Result<(bool, String)> {
    let path = path.to_str().context("the path is no text")?;
    system.worker_command(&["catalogue", "apply", path]).await
}
