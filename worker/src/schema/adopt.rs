//! Adds indexes, triggers and a constraint to the Python dashboard's tables. A database with different
//! tables is refused before anything is written.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use shared::database::sqlstate;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const ATTACH: &str = include_str!("../../../migrations/attach.sql");
const ENCODING: &str = include_str!("../../../migrations/encoding.sql");

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

/// Our indexes on these tables. Each is created concurrently, and so outside a transaction.
const INDEXES: [(&str, &str); 7] = [
    // The active incidents, few among many.
    (
        "sdb_incident_open",
        "CREATE INDEX CONCURRENTLY sdb_incident_open ON incident (id) WHERE end_date IS NULL",
    ),
    // The active system incidents, which every batch reads: three at most, however many manual ones there
    // are.
    (
        "sdb_incident_active",
        "CREATE INDEX CONCURRENTLY sdb_incident_active
        ON incident (id) WHERE system AND end_date IS NULL",
    ),
    // Ends that the ETag of active lists depends on, and incidents that have not ended.
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

/// Refuses a database with unknown tables.
///
/// # Errors
/// When a table or a column of the Python dashboard is missing or of another type. Nothing was written.
pub(super) async fn check(database: &mut PgConnection) -> Result<()> {
    check_go_backend(database).await?;
    check_revision(database).await?;
    for (table, columns) in SHARED_TABLES {
        if let Some(problem) = problem(database, table, columns).await? {
            bail!(
                "table {table} exists already, but {problem}: it is not the Python dashboard's at \
                revision {ALEMBIC_HEAD}; bring it there with `flask db upgrade {ALEMBIC_HEAD}`, or \
                name an empty database"
            );
        }
    }
    Ok(())
}

/// Refuses a database of the Python dashboard's successor, whose incidents have a type.
async fn check_go_backend(database: &mut PgConnection) -> Result<()> {
    let is_one: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('incident')
            AND attname = 'type' AND attnotnull AND NOT attisdropped)",
    )
    .fetch_one(database)
    .await?;
    if is_one {
        bail!(
            "these are the tables of the dashboard's Go backend (incident.type), which can't be adopted: name an \
            empty database, or one of the Python dashboard"
        );
    }
    Ok(())
}

/// Refuses another revision of the Python dashboard's own migrations, if one is recorded.
async fn check_revision(database: &mut PgConnection) -> Result<()> {
    let is_recorded: bool = sqlx::query_scalar("SELECT to_regclass('alembic_version') IS NOT NULL")
        .fetch_one(&mut *database)
        .await?;
    if !is_recorded {
        return Ok(());
    }
    let heads: Vec<String> =
        sqlx::query_scalar("SELECT version_num FROM alembic_version").fetch_all(database).await?;
    if let Some(other) = heads.iter().find(|head| *head != ALEMBIC_HEAD) {
        bail!(
            "the Python dashboard's tables are at revision {other}, but this program knows \
            {ALEMBIC_HEAD}: bring them there with `flask db upgrade {ALEMBIC_HEAD}` first"
        );
    }
    Ok(())
}

/// The problem of a table that exists and lacks something.
async fn problem(
    database: &mut PgConnection,
    table: &str,
    columns: &[Column],
) -> Result<Option<String>, sqlx::Error> {
    let found: HashMap<String, String> = sqlx::query_as(
        "SELECT attname::text, typname::text
        FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
        WHERE attrelid = to_regclass($1) AND attnum > 0",
    )
    .bind(table)
    .fetch_all(&mut *database)
    .await?
    .into_iter()
    .collect();
    if found.is_empty() {
        return Ok(None);
    }
    for (column, types) in columns {
        match found.get(*column) {
            None => return Ok(Some(format!("without the column {column}"))),
            Some(other) if !types.contains(&other.as_str()) => {
                return Ok(Some(format!("its column {column} is of the type {other}")));
            }
            Some(_) => {}
        }
    }
    if columns.iter().any(|(column, _)| *column == "id") {
        let sequence: Option<String> =
            sqlx::query_scalar("SELECT pg_get_serial_sequence($1, 'id')")
                .bind(table)
                .fetch_one(database)
                .await?;
        if sequence.is_none() {
            return Ok(Some("its column id has no sequence".to_owned()));
        }
    }
    Ok(None)
}

/// Adds our indexes and triggers. Safe to run again.
///
/// # Errors
/// When the database fails; what was added before remains, and the next run adds the rest.
pub(super) async fn attach(database: &mut PgConnection) -> Result<()> {
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
    Ok(transaction.commit().await?)
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
            // Left behind by an interrupted run.
            let drop = format!("DROP INDEX CONCURRENTLY {name}");
            database.execute(sqlx::raw_sql(AssertSqlSafe(drop))).await?;
        }
        if valid != Some(true) {
            database.execute(sqlx::raw_sql(statement)).await?;
        }
    }
    Ok(())
}

/// Adds a constraint as a safeguard, if the data allow it: at most one active system incident of each
/// impact.
///
/// # Errors
/// When the database fails for another reason than its data.
pub(super) async fn constrain(database: &mut PgConnection) -> Result<Option<String>> {
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
    match added {
        Ok(_) => Ok(None),
        Err(error) if sqlstate::is(&error, sqlstate::EXCLUSION_VIOLATION) => Ok(Some(
            "Several active incidents of the system have the same impact: the constraint \
                against that is left off, and the oldest of them is used. Close the others and \
                run this again."
                .to_owned(),
        )),
        Err(error) => Err(error).context("the constraint on active incidents can't be added"),
    }
}
