//! The parked messages: what a batch parks, and what an operator sees and requeues of them.

use std::collections::HashSet;

use serde::{Serialize, Serializer};
use shared::{
    domain::{timestamp::Timestamp, update_id::UpdateId},
    telemetry::traces::Processing,
    throttled,
};
use sqlx::{FromRow, PgConnection};

use super::{inbox::PendingRow, incidents::column, state_lock::ScopeGuard};

/// A message that can't be applied because of its content.
pub(crate) struct MessageToPark<'a> {
    /// Identifies redeliveries of the same message.
    pub(crate) delivery_key: String,
    pub(crate) update_id: Option<UpdateId>,
    pub(crate) queue: &'a str,
    pub(crate) reason: String,
    pub(crate) payload: &'a [u8],
    pub(crate) trace: Option<&'a Processing>,
}

/// A message that is parked.
#[derive(Debug, FromRow, Serialize)]
pub(crate) struct ParkedMessage {
    /// The number that an operator names it by.
    pub(crate) id: i64,
    /// Its update, where it could be read that far.
    pub(crate) update_id: Option<UpdateId>,
    #[serde(skip)]
    pub(crate) delivery_key: String,
    /// The queue that it came from.
    pub(crate) queue: String,
    /// Why it could not be applied.
    pub(crate) reason: String,
    /// When it was parked.
    pub(crate) parked_at: Timestamp,
    /// When it was last requeued; it is deleted once it is applied.
    pub(crate) put_back_at: Option<Timestamp>,
    /// Its bytes, as text.
    #[serde(rename = "message", serialize_with = "as_text")]
    pub(crate) payload: Vec<u8>,
}

fn as_text<S: Serializer>(payload: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(payload))
}

/// Deletes the parked messages that were requeued and are decided now.
pub(crate) async fn unpark(
    scope: &mut ScopeGuard<'_>,
    rows: &[PendingRow<'_>],
    requeued: &HashSet<UpdateId>,
) -> Result<(), sqlx::Error> {
    let decided: Vec<UpdateId> =
        rows.iter().map(|row| row.update.id).filter(|id| requeued.contains(id)).collect();
    if !decided.is_empty() {
        sqlx::query("DELETE FROM sdb_parked WHERE update_id = ANY($1)")
            .bind(decided)
            .execute(scope.session())
            .await?;
    }
    Ok(())
}

/// Parks messages; one that is parked already is left as it is, unless it was requeued.
///
/// # Errors
/// When the database fails; the transaction is rolled back, and the messages are delivered again.
pub(crate) async fn park(
    scope: &mut ScopeGuard<'_>,
    parked: &[MessageToPark<'_>],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    if parked.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO sdb_parked (delivery_key, update_id, queue, reason, payload, parked_at)
        SELECT *, $6::timestamp
        FROM unnest($1::varchar[], $2::uuid[], $3::varchar[], $4::varchar[], $5::bytea[])
        ON CONFLICT (delivery_key) DO UPDATE SET put_back_at = NULL, queue = excluded.queue,
            reason = excluded.reason, parked_at = excluded.parked_at
            WHERE sdb_parked.put_back_at IS NOT NULL",
    )
    .bind(column(parked, |p| p.delivery_key.as_str()))
    .bind(column(parked, |p| p.update_id))
    .bind(column(parked, |p| p.queue))
    .bind(column(parked, |p| p.reason.as_str()))
    .bind(column(parked, |p| p.payload))
    .bind(now)
    .execute(scope.session())
    .await?;
    for parked in parked {
        let MessageToPark { delivery_key: update, queue, reason, .. } = parked;
        let trace_id = parked.trace.and_then(Processing::id).map(tracing::field::display);
        throttled!(warn, reason, update, trace_id, queue, reason, "parked");
    }
    Ok(())
}

/// The parked messages with these numbers, or all; oldest first.
pub(crate) async fn read(
    database: &mut PgConnection,
    ids: Option<&[i64]>,
) -> Result<Vec<ParkedMessage>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, update_id, delivery_key, queue, reason, parked_at, put_back_at, payload
        FROM sdb_parked WHERE $1::bigint[] IS NULL OR id = ANY($1) ORDER BY id",
    )
    .bind(ids)
    .fetch_all(database)
    .await
}

/// Records that a message is requeued now: a worker ignores the update of one that is not.
///
/// # Errors
/// When the database fails; the message must not be published then.
pub(crate) async fn mark_requeued(database: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE sdb_parked SET put_back_at = clock_timestamp() AT TIME ZONE 'UTC' WHERE id = $1",
    )
    .bind(id)
    .execute(database)
    .await?;
    Ok(())
}

/// Records that a message was not requeued after all.
///
/// # Errors
/// When the database fails; after ten minutes the message counts as parked again.
pub(crate) async fn unmark_requeued(
    database: &mut PgConnection,
    id: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE sdb_parked SET put_back_at = NULL WHERE id = $1")
        .bind(id)
        .execute(database)
        .await?;
    Ok(())
}
