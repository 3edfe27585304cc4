//! Locks of the database that a test holds, and that others wait for.

use anyhow::Result;
use sqlx::{Postgres, Transaction};

use super::{System, eventually};

impl System {
    /// Holds what every batch and every operator's change locks first, until the transaction ends.
    pub async fn hold_scope(&self) -> Result<Transaction<'static, Postgres>> {
        let mut held = self.database.begin().await?;
        sqlx::query("SELECT FROM sdb_scope FOR UPDATE").execute(&mut *held).await?;
        Ok(held)
    }

    /// Waits until a session of the database waits for a lock.
    pub async fn waits_for_a_lock(&self) -> Result<()> {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("a session waits for a lock", async || Ok(self.count(waiting).await? > 0)).await
    }
}
