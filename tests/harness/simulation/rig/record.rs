//! What batches have noted of when components were affected is applied to the record, as workers do it.

use anyhow::Result;
use sqlx::PgConnection;
use tokio::sync::watch;

use super::Rig;

/// Whether something was applied. There may be more.
async fn apply_some(connection: &mut PgConnection) -> Result<bool> {
    let apply = "SELECT sdb_affected_apply_some('0', '0')";
    Ok(sqlx::query_scalar(apply).fetch_one(connection).await?)
}

/// Applies while a batch and an edit are made, until the batch is through.
pub(super) async fn apply_noted_beside(
    connection: &mut PgConnection,
    is_through: watch::Receiver<bool>,
) -> Result<()> {
    while !*is_through.borrow() {
        apply_some(connection).await?;
    }
    Ok(())
}

impl Rig {
    /// Applies what is noted of one incident: the rest stays for later, as in a storm.
    pub(super) async fn apply_some_noted(&mut self) -> Result<()> {
        let mut connection = self.connection().await?;
        apply_some(&mut connection).await?;
        self.idle.push(connection);
        Ok(())
    }
}
