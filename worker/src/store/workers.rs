//! The live workers, as the database records them.

use shared::wire::message;
use sqlx::PgConnection;

/// The id of a membership; a worker that rejoins gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct MemberId(pub i64);

/// Adds a worker. The database refuses one that can't read the version that gateways write.
///
/// # Errors
/// When the database fails, or when its trigger refuses this worker, which can't read the messages of
/// gateways.
pub(crate) async fn join(database: &mut PgConnection) -> Result<MemberId, sqlx::Error> {
    // Deletes memberships of killed workers, long after they have expired.
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

/// Reports that a worker is alive. False if its membership has expired, which is never renewed, because
/// its partitions are assigned to others.
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

/// The live workers, in the order in which partitions are assigned.
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
