//! Prepares a database: an empty one, one of the Python dashboard, or one that was prepared before.

use anyhow::{Context, Result};
use shared::{
    database,
    settings::Settings,
    topology::{Recorded, Topology},
};
use sqlx::PgConnection;

use super::{adopt, affected};
use crate::store::{command_lock::alone, inbox_partitions};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// Prepares the database. Returns the messages for the operator.
///
/// # Errors
/// When the database can't be adopted, or fails.
pub async fn migrate(database: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    alone(database, async |database| migrate_alone(database, settings).await).await
}

async fn migrate_alone(database: &mut PgConnection, settings: &Settings) -> Result<Vec<String>> {
    let mut said: Vec<String> =
        database::contradiction(settings).map(str::to_owned).into_iter().collect();
    adopt::check(database).await?;
    let before = applied(database).await?;
    MIGRATIONS.run(&mut *database).await.context("a migration failed")?;
    let after = applied(database).await?;
    said.push(match after - before {
        0 => "The tables are up to date.".to_owned(),
        steps => format!("Applied {steps} of {after} migrations."),
    });

    adopt::attach(database).await?;
    affected::complete(database).await?;
    said.extend(about_encoding(database).await?);
    said.extend(adopt::constrain(database).await?);
    said.push(record_topology(database, settings).await?);
    inbox_partitions::keep(database, settings.number("SDB_INBOX_DAYS", 1..=3_650)?)
        .await
        .context("the inbox's partitions can't be made")?;
    Ok(said)
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

/// The consequence of an encoding other than UTF8.
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
    Ok(format!("Updates take {}.", recorded.sizes()))
}
