//! Prepares a database, adopts one of the Python dashboard, and takes our additions off again.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use shared::{
    database,
    settings::Settings,
    topology::{Recorded, Topology},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::sleep;

use crate::store::{command_lock::alone, inbox_partitions};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");
const ATTACH: &str = include_str!("../../migrations/attach.sql");
const ENCODING: &str = include_str!("../../migrations/encoding.sql");
const DETACH: &str = include_str!("../../migrations/detach.sql");

/// The head of the Python dashboard's own migrations whose tables these are.
const ALEMBIC_HEAD: &str = "14621c95e3ee";

const NUMBER: &[&str] = &["int4"];
const TEXT: &[&str] = &["varchar", "text"];
const TIME: &[&str] = &["timestamp"];

/// A column and the types that it may have.
type Column = (&'static str, &'static [&'static str]);

/// The columns that an existing table must have.
const SHARED_TABLES: [(&str, &[Column]); 5] = [
    ("component", &[("id", NUMBER), ("name", TEXT)]),
    (
        "component_attribute",
        &[("id", NUMBER), ("component_id", NUMBER), ("name", TEXT), ("value", TEXT)],
    ),
    (
        "incident",
        &[
            ("id", NUMBER),
            ("text", TEXT),
            ("start_date", TIME),
            ("end_date", TIME),
            ("impact", &["int2"]),
            ("system", &["bool"]),
        ],
    ),
    ("incident_component_relation", &[("incident_id", NUMBER), ("component_id", NUMBER)]),
    (
        "incident_status",
        &[
            ("id", NUMBER),
            ("incident_id", NUMBER),
            ("timestamp", TIME),
            ("text", TEXT),
            ("status", TEXT),
        ],
    ),
];

/// Our indexes on these tables. Each is made without stopping writers, and so on its own.
const INDEXES: [(&str, &str); 7] = [
    // The active incidents, few among many.
    (
        "sdb_incident_open",
        "CREATE INDEX CONCURRENTLY sdb_incident_open ON incident (id) WHERE end_date IS NULL",
    ),
    // Those of the system, which every batch asks for: three at most, however many persons opened.
    (
        "sdb_incident_active",
        "CREATE INDEX CONCURRENTLY sdb_incident_active
        ON incident (id) WHERE system AND end_date IS NULL",
    ),
    // Ends that the ETag of the active lists watches, and incidents that have yet to end.
    ("sdb_incident_end", "CREATE INDEX CONCURRENTLY sdb_incident_end ON incident (end_date)"),
    // Lists, newest start first.
    (
        "sdb_incident_start",
        "CREATE INDEX CONCURRENTLY sdb_incident_start ON incident (start_date DESC, id DESC)",
    ),
    (
        "sdb_incident_impact",
        "CREATE INDEX CONCURRENTLY sdb_incident_impact
        ON incident (impact, start_date DESC, id DESC)",
    ),
    // The incidents of a component.
    (
        "sdb_relation_component",
        "CREATE INDEX CONCURRENTLY sdb_relation_component
        ON incident_component_relation (component_id, incident_id)",
    ),
    // The updates of an incident in order, and its newest.
    (
        "sdb_status_in_order",
        "CREATE INDEX CONCURRENTLY sdb_status_in_order
        ON incident_status (incident_id, \"timestamp\")",
    ),
];

/// Between two looks at whether gateways and workers are still connected.
const PAUSE: Duration = Duration::from_millis(200);
/// How often `worker detach` looks, with such pauses, before it refuses.
const LOOKS: u32 = 10;

/// Prepares the database, whatever stands in it: an empty one, one of the Python dashboard, one
/// that is prepared already. Returns what to tell the operator.
///
/// # Errors
/// When the database can't be adopted, or fails.
pub async fn migrate(database: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    alone(database, async |database| migrate_alone(database, settings).await).await
}

async fn migrate_alone(database: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    let mut said: Vec<String> =
        database::contradiction(settings).map(str::to_owned).into_iter().collect();
    check_python_dashboard(database).await?;
    let before = applied(database).await?;
    MIGRATIONS.run(&mut *database).await.context("a migration failed")?;
    let after = applied(database).await?;
    said.push(match after - before {
        0 => "The tables are up to date.".to_owned(),
        steps => format!("Applied {steps} of {after} migrations."),
    });

    make_indexes(database).await.context("our indexes can't be added to the dashboard's tables")?;
    let mut transaction = database.begin().await?;
    transaction
        .execute(sqlx::raw_sql(ENCODING))
        .await
        .context("the function that reads texts can't be made")?;
    transaction
        .execute(sqlx::raw_sql(ATTACH))
        .await
        .context("our triggers can't be added to the dashboard's tables")?;
    transaction.commit().await?;
    said.extend(about_encoding(database).await?);
    said.extend(constrain(database).await?);
    said.push(record_topology(database, settings).await?);
    inbox_partitions::keep(database, settings.number("SDB_INBOX_DAYS", 1..=3_650)?)
        .await
        .context("the inbox's parts can't be made")?;
    Ok(said)
}

/// Takes our triggers, indexes and constraint off the dashboard's tables.
///
/// # Errors
/// When gateways or workers are connected, or the database fails.
pub async fn detach(database: &mut PgConnection) -> Result<()> {
    alone(database, detach_alone).await
}

async fn detach_alone(database: &mut PgConnection) -> Result<()> {
    // PostgreSQL shows the session of a process that was stopped just now for a moment longer.
    let mut looks = 1;
    while are_connected(database).await? {
        ensure!(looks < LOOKS, "gateways or workers are connected: stop all of them first");
        looks += 1;
        sleep(PAUSE).await;
    }
    let mut transaction = database.begin().await?;
    ensure!(
        !are_connected(&mut transaction).await?,
        "gateways or workers are connected: stop all of them first"
    );
    transaction.execute(sqlx::raw_sql(DETACH)).await?;
    Ok(transaction.commit().await?)
}

/// Whether gateways or workers are connected.
async fn are_connected(database: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND application_name IN ('gateway', 'worker'))",
    )
    .fetch_one(database)
    .await
}

async fn make_indexes(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    for (name, statement) in INDEXES {
        let valid: Option<bool> = sqlx::query_scalar(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)",
        )
        .bind(name)
        .fetch_optional(&mut *database)
        .await?;
        if valid == Some(false) {
            // Left behind by one that was interrupted.
            let drop = format!("DROP INDEX CONCURRENTLY {name}");
            database.execute(sqlx::raw_sql(AssertSqlSafe(drop))).await?;
        }
        if valid != Some(true) {
            database.execute(sqlx::raw_sql(statement)).await?;
        }
    }
    Ok(())
}

async fn applied(database: &mut PgConnection) -> Result<i64> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *database)
        .await?;
    if !there {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(database).await?)
}

/// Refuses a database whose tables are not the ones that we know.
async fn check_python_dashboard(database: &mut PgConnection) -> Result<()> {
    let alembic: bool = sqlx::query_scalar("SELECT to_regclass('alembic_version') IS NOT NULL")
        .fetch_one(&mut *database)
        .await?;
    if alembic {
        let heads: Vec<String> = sqlx::query_scalar("SELECT version_num FROM alembic_version")
            .fetch_all(&mut *database)
            .await?;
        if let Some(other) = heads.iter().find(|head| *head != ALEMBIC_HEAD) {
            bail!(
                "the Python dashboard's tables are at revision {other}, but this program knows \
                {ALEMBIC_HEAD}: bring them there with `flask db upgrade {ALEMBIC_HEAD}` first"
            );
        }
    }
    for (table, columns) in SHARED_TABLES {
        let there: HashMap<String, String> = sqlx::query_as(
            "SELECT attname::text, typname::text
            FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
            WHERE attrelid = to_regclass($1) AND attnum > 0",
        )
        .bind(table)
        .fetch_all(&mut *database)
        .await?
        .into_iter()
        .collect();
        if there.is_empty() {
            continue;
        }
        let refused = |problem: String| {
            anyhow!(
                "table {table} stands already, but {problem}: it is not the Python dashboard's at \
                revision {ALEMBIC_HEAD}; bring it there with `flask db upgrade {ALEMBIC_HEAD}`, or \
                name an empty database"
            )
        };
        for (column, types) in columns {
            match there.get(*column) {
                None => return Err(refused(format!("without the column {column}"))),
                Some(other) if !types.contains(&other.as_str()) => {
                    return Err(refused(format!("its column {column} is of the type {other}")));
                }
                Some(_) => {}
            }
        }
        if columns.iter().any(|(column, _)| *column == "id") {
            let sequence: Option<String> =
                sqlx::query_scalar("SELECT pg_get_serial_sequence($1, 'id')")
                    .bind(table)
                    .fetch_one(&mut *database)
                    .await?;
            if sequence.is_none() {
                return Err(refused("its column id has no sequence".to_owned()));
            }
        }
    }
    Ok(())
}

/// What an encoding other than UTF8 means.
async fn about_encoding(database: &mut PgConnection) -> Result<Option<String>> {
    let encoding: String =
        sqlx::query_scalar("SELECT getdatabaseencoding()::text").fetch_one(database).await?;
    let meaning = match encoding.as_str() {
        "UTF8" => return Ok(None),
        "SQL_ASCII" => {
            "PostgreSQL checks no text then, and of one that is not UTF-8 all but ASCII is shown as `?`"
        }
        _ => "updates with characters that it lacks are refused",
    };
    Ok(Some(format!(
        "The encoding of the database is {encoding}: {meaning}. The runbook, \"A database that is not \
        UTF-8\", says how to convert it."
    )))
}

/// Adds the backstop to the decision, where the data allow it: at most one active system incident
/// of each impact.
async fn constrain(database: &mut PgConnection) -> Result<Option<String>> {
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_constraint
            WHERE conname = 'sdb_one_active_system_incident_per_impact'
                AND conrelid = 'incident'::regclass)",
    )
    .fetch_one(&mut *database)
    .await?;
    if there {
        return Ok(None);
    }
    // Deferred, since a batch may raise one incident to the impact that another one leaves.
    let added = database
        .execute(
            "ALTER TABLE incident ADD CONSTRAINT sdb_one_active_system_incident_per_impact
            EXCLUDE USING btree (impact WITH =)
            WHERE (system AND end_date IS NULL AND impact <> 0) DEFERRABLE INITIALLY DEFERRED",
        )
        .await;
    const EXCLUSION_VIOLATION: &str = "23P01";
    match added {
        Ok(_) => Ok(None),
        Err(error)
            if error.as_database_error().and_then(|e| e.code()).as_deref()
                == Some(EXCLUSION_VIOLATION) =>
        {
            Ok(Some(
                "Several active incidents of the system have the same impact: the constraint \
                against that is left off, and the oldest of them is used. Close the others and \
                run this again."
                    .to_owned(),
            ))
        }
        Err(error) => Err(error).context("the constraint on active incidents can't be added"),
    }
}

async fn record_topology(database: &mut PgConnection, settings: &Settings) -> Result<String> {
    let first = Topology::from_settings(settings)?;
    sqlx::query(
        "INSERT INTO sdb_topology (version, partitions, queue_limit, prefetch, wire)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(first.version)
    .bind(i32::from(first.partitions))
    .bind(i32::try_from(first.queue_limit)?)
    .bind(i32::from(first.prefetch))
    .bind(i32::from(first.wire))
    .execute(&mut *database)
    .await?;
    let recorded = Recorded::read(database).await?.topology;
    recorded.check(settings)?;
    Ok(format!(
        "Updates take {} partitions of at most {} messages.",
        recorded.partitions, recorded.queue_limit
    ))
}
