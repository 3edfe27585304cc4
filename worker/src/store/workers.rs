//! The live workers, as the database records them.

use shared::message;
use sqlx::PgConnection;

/// One membership of a worker; it gets another one when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct MemberId(pub i64);

/// Adds a worker. The database refuses it when it can't read what gateways write.
pub(crate) async fn join(database: &mut PgConnection) -> Result<MemberId, sqlx::Error> {
    // What workers that were killed left behind; long after anybody counted them.
    sqlx::query(
        "DELETE FROM sdb_worker
        WHERE seen_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '1 minute'",
    )
    .execute(&mut *database)
    .await?;
    sqlx::query_scalar(
        "INSERT INTO sdb_worker (seen_at, reads)
        VALUES (clock_timestamp() AT TIME ZONE 'UTC', $1) RETURNING id",
    )
    .bind(i16::try_from(message::NEWEST).unwrap_or(i16::MAX))
    .fetch_one(database)
    .await
}

/// Reports that a worker is alive. False when its membership has expired: it is never renewed then, since
/// the others have its partitions.
pub(crate) async fn heartbeat(
    database: &mut PgConnection,
    id: MemberId,
) -> Result<bool, sqlx::Error> {
    let beaten = sqlx::query(
        "UPDATE sdb_living_worker SET seen_at = clock_timestamp() AT TIME ZONE 'UTC' WHERE id = $1",
    )
    .bind(id)
    .execute(database)
    .await?;
    Ok(beaten.rows_affected() > 0)
}

/// The live workers, in the order in which partitions are dealt out.
pub(crate) async fn live(database: &mut PgConnection) -> Result<Vec<MemberId>, sqlx::Error> {
    sqlx::query_scalar("SELECT id FROM sdb_living_worker ORDER BY id").fetch_all(database).await
}

/// The live workers that can't read this version of messages.
pub(crate) async fn that_cannot_read(
    database: &mut PgConnection,
    wire: u16,
) -> Result<Vec<MemberId>, sqlx::Error> {
    sqlx::query_scalar("SELECT id FROM sdb_living_worker WHERE reads < $1 ORDER BY id")
        .bind(i32::from(wire))
        .fetch_all(database)
        .await
}

/// Removes a worker.
pub(crate) async fn leave(database: &mut PgConnection, id: MemberId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM sdb_worker WHERE id = $1").bind(id).execute(database).await?;
    Ok(())
}
