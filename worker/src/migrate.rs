//! Prepares a database, adopts one of the Python dashboard, and takes our additions off again.

use anyhow::{Context, Result, bail};
use shared::{settings::Settings, topology::Topology};
use sqlx::{Connection, Executor, PgConnection};

use crate::inbox;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");
const ATTACH: &str = include_str!("../../migrations/attach.sql");
const DETACH: &str = include_str!("../../migrations/detach.sql");

/// The head of the Python dashboard's own migrations whose tables these are.
const ALEMBIC_HEAD: &str = "14621c95e3ee";

/// The columns that an existing table must have.
const SHARED_TABLES: [(&str, &[&str]); 5] = [
    ("component", &["id", "name"]),
    ("component_attribute", &["id", "component_id", "name", "value"]),
    ("incident", &["id", "text", "start_date", "end_date", "impact", "system"]),
    ("incident_component_relation", &["incident_id", "component_id"]),
    ("incident_status", &["id", "incident_id", "timestamp", "text", "status"]),
];

/// Prepares the database, whatever stands in it: an empty one, one of the Python dashboard, one
/// that is prepared already. Returns what to tell the operator.
///
/// # Errors
/// When the database can't be adopted, or fails.
pub async fn migrate(database: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    let mut said = Vec::new();
    check_python_dashboard(database).await?;
    let before = applied(database).await?;
    MIGRATIONS.run(&mut *database).await.context("a migration failed")?;
    let after = applied(database).await?;
    said.push(match after - before {
        0 => "The tables are up to date.".to_owned(),
        steps => format!("Applied {steps} of {after} migrations."),
    });

    let mut transaction = database.begin().await?;
    transaction
        .execute(sqlx::raw_sql(ATTACH))
        .await
        .context("our triggers and indexes can't be added to the dashboard's tables")?;
    transaction.commit().await?;
    said.extend(constrain(database).await?);
    said.push(record_topology(database, settings).await?);
    inbox::keep(database, settings.number("SDB_INBOX_DAYS", 1..=3_650)?)
        .await
        .context("the inbox's parts can't be made")?;
    Ok(said)
}

/// Takes our triggers, indexes and constraint off the dashboard's tables.
///
/// # Errors
/// When the database fails.
pub async fn detach(database: &mut PgConnection) -> Result<()> {
    let mut transaction = database.begin().await?;
    transaction.execute(sqlx::raw_sql(DETACH)).await?;
    transaction.commit().await?;
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
        let there: Vec<String> = sqlx::query_scalar(
            "SELECT attname::text FROM pg_attribute
            WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
        )
        .bind(table)
        .fetch_all(&mut *database)
        .await?;
        if there.is_empty() {
            continue;
        }
        if let Some(missing) = columns.iter().find(|column| !there.iter().any(|t| t == *column)) {
            bail!(
                "table {table} stands already, but without the column {missing}: it is not the \
                Python dashboard's at revision {ALEMBIC_HEAD}; bring it there with \
                `flask db upgrade {ALEMBIC_HEAD}`, or name an empty database"
            );
        }
    }
    Ok(())
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
        "INSERT INTO sdb_topology (version, partitions, queue_limit, prefetch)
        VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(first.version)
    .bind(i32::from(first.partitions))
    .bind(i32::try_from(first.queue_limit)?)
    .bind(i32::from(first.prefetch))
    .execute(&mut *database)
    .await?;
    let recorded = Topology::read(database, settings).await?;
    Ok(format!(
        "Updates take {} partitions of at most {} updates.",
        recorded.partitions, recorded.queue_limit
    ))
}
