//! One state of the database, for documents that are made of several statements.

use shared::domain::timestamp::Timestamp;
use sqlx::{Connection, FromRow, PgConnection, Postgres, Row, Transaction};

use super::version::{VERSION, Version};

/// A transaction that sees one state.
pub(crate) struct Snapshot<'c> {
    pub(crate) database: Transaction<'c, Postgres>,
    /// The version of the lists in this state.
    pub(crate) version: Version,
    /// The time of this state, by the clock of the database.
    pub(crate) now: Timestamp,
}

impl<'c> Snapshot<'c> {
    /// # Errors
    /// When the database fails.
    pub(crate) async fn begin(connection: &'c mut PgConnection) -> Result<Self, sqlx::Error> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut database = connection.begin_with(begin).await?;
        let row = sqlx::query(VERSION).fetch_one(&mut *database).await?;
        let version = Version::from_row(&row)?;
        let now = row.try_get("version_now")?;
        Ok(Self { database, version, now })
    }

    /// # Errors
    /// When the database fails.
    pub(crate) async fn end(self) -> Result<(), sqlx::Error> {
        self.database.commit().await
    }
}
