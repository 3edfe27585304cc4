//! The parked messages, as a batch writes them.

use std::collections::HashSet;

use shared::{throttled, timestamp::Timestamp, traces::Processing, update_id::UpdateId};

use super::{inbox::PendingRow, incidents::column, scope_lock::ScopeGuard};

/// A message that can't be applied for a reason of its own.
pub(crate) struct MessageToPark<'a> {
    /// Tells a redelivery from another message.
    pub(crate) delivery_key: String,
    pub(crate) update_id: Option<UpdateId>,
    pub(crate) queue: &'a str,
    pub(crate) reason: String,
    pub(crate) payload: &'a [u8],
    pub(crate) trace: Option<&'a Processing>,
}

/// Takes what was put back out of the parked messages, now that it is decided.
pub(crate) async fn unpark(
    scope: &mut ScopeGuard<'_>,
    rows: &[PendingRow<'_>],
    put_back: &HashSet<UpdateId>,
) -> Result<(), sqlx::Error> {
    let decided: Vec<UpdateId> =
        rows.iter().map(|row| row.update.id).filter(|id| put_back.contains(id)).collect();
    if !decided.is_empty() {
        sqlx::query("DELETE FROM sdb_parked WHERE update_id = ANY($1)")
            .bind(decided)
            .execute(scope.session())
            .await?;
    }
    Ok(())
}

/// Parks messages; one that is parked already is left as it is, unless it was put back.
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
