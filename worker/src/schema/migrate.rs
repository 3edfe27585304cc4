//! Prepares a database: an empty one, one of the Python dashboard, or one that was prepared before.

use anyhow::{Context, Result};
use shared::{
    amqp::topology::{Recorded, Topology},
    database,
    settings::Settings,
};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{adopt, backfill_affected};
use crate::{housekeeping::housekeep, store::command_locks::alone};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// Prepares the database. Returns the messages for the operator. A database that a newer release has
/// prepared is left as it is, since migrations only expand the tables: so the programs of this release can
/// be deployed again as they were deployed first.
///
/// # Errors
/// When the database can't be adopted, or fails.
pub async fn migrate(database: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    alone(database, async |database| migrate_alone(database, settings).await).await
}

async fn migrate_alone(database: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    let mut said: Vec<String> =
        database::contradiction(settings)?.map(str::to_owned).into_iter().collect();
    if is_newer(database).await? {
        said.push("A newer release has prepared this database: it is left as it is.".to_owned());
        return Ok(said);
    }
    adopt::check(database).await?;
    let before = applied(database).await?;
    MIGRATIONS.run(&mut *database).await.context("a migration failed")?;
    let after = applied(database).await?;
    said.push(match after - before {
        0 => "The tables are up to date.".to_owned(),
        steps => format!("Applied {steps} of {after} migrations."),
    });

    validate(database).await.context("the inbox's constraints can't be validated")?;
    adopt::attach(database).await?;
    said.extend(about_encoding(database).await?);
    said.extend(adopt::constrain(database).await?);
    said.push(record_topology(database, settings).await?);
    housekeep(database, settings.number("SDB_INBOX_DAYS", 1..=3_650)?)
        .await
        .context("the inbox's partitions can't be made")?;
    // Last, since it takes long and may leave something: the database is usable without it.
    said.extend(backfill_affected::complete(database).await?);
    Ok(said)
}

/// Whether the database has migrations that this release does not know.
async fn is_newer(database: &mut PgConnection) -> Result<bool> {
    if !is_migrated(database).await? {
        return Ok(false);
    }
    let newest: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(database).await?;
    Ok(newest > MIGRATIONS.iter().map(|migration| migration.version).max())
}

async fn is_migrated(database: &mut PgConnection) -> Result<bool> {
    let found = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    Ok(sqlx::query_scalar(found).fetch_one(database).await?)
}

async fn applied(database: &mut PgConnection) -> Result<i64> {
    if !is_migrated(database).await? {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(database).await?)
}

/// Validates the constraints of the inbox that a migration added. It is not a part of that migration, because
/// PostgreSQL would keep the migration's strong lock meanwhile.
async fn validate(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    let added: Vec<String> = sqlx::query_scalar(
        "SELECT conname::text FROM pg_constraint
        WHERE conrelid = 'sdb_inbox'::regclass AND NOT convalidated ORDER BY conname",
    )
    .fetch_all(&mut *database)
    .await?;
    for name in added {
        let validate = format!("ALTER TABLE sdb_inbox VALIDATE CONSTRAINT {name}");
        sqlx::query(AssertSqlSafe(validate)).execute(&mut *database).await?;
    }
    Ok(())
}

/// The consequence of an encoding other than UTF8.
async fn about_encoding(database: &mut PgConnection) -> Result<Option<String>> {
    let encoding: String =
        sqlx::query_scalar("SELECT getdatabaseencoding()::text").fetch_one(database).await?;
    let meaning = match encoding.as_str() {
        "UTF8" => return Ok(None),
        "SQL_ASCII" => {
            "PostgreSQL does not validate text; in a text that is not UTF-8, each non-ASCII byte is shown as \
            `?`"
        }
        _ => "updates with characters that it lacks are refused",
    };
    Ok(Some(format!(
        "The encoding of the database is {encoding}: {meaning}. docs/operations/procedures.md, \"A \
        database that is not UTF-8\", says how to convert it."
    )))
}

async fn record_topology(database: &mut PgConnection, settings: &Settings) -> Result<String> {
    let first = Topology::from_settings(settings)?;
    sqlx::query(
        "INSERT INTO sdb_topology (version, partitions, queue_limit, prefetch, wire, arguments)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(first.version)
    .bind(i32::from(first.partitions))
    .bind(i32::try_from(first.queue_limit)?)
    .bind(i32::from(first.prefetch))
    .bind(i32::from(first.wire))
    .bind(i32::from(first.arguments))
    .execute(&mut *database)
    .await?;
    let recorded = Recorded::read(database).await?.topology;
    recorded.check(settings)?;
    Ok(format!("Updates take {}.", recorded.sizes()))
}
