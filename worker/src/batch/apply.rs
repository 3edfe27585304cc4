//! The transaction that applies a batch. It can be run again at any time: what is in the inbox is
//! passed over, and nothing outside the database is touched.

use std::collections::BTreeSet;

use shared::{component::ComponentId, incident::IncidentId, message::UpdateMessage, throttled};
use sqlx::PgConnection;

use super::{
    deferred::Blocked,
    message::{Applied, Incoming},
    plan::{Plan, plan},
};
use crate::{
    domain::ActiveState,
    store::{
        active_state,
        facts::{self, Facts, FactsQuery},
        inbox,
        incidents::{self, Changes},
        parked,
        row_locks::RowLocks,
        scope_lock::ScopeGuard,
        workers::MemberId,
    },
};

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The worker's membership has expired: the others have its partitions.
    #[error("the others have this worker's partitions: it was away for too long")]
    Expired,
    /// Once the scope's lock was held, the transaction waited too long for others, or took too long.
    /// Fewer updates may need less of what others hold.
    #[error("the transaction took too long")]
    TooLong(#[source] sqlx::Error),
    /// The database refused the batch, or failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl ApplyError {
    /// An error of a statement that was run while the scope's lock was held.
    fn in_transaction(error: sqlx::Error) -> Self {
        /// SQLSTATE of a lock that was waited for in vain.
        const LOCK_NOT_AVAILABLE: &str = "55P03";
        /// SQLSTATE of a statement that took too long.
        const QUERY_CANCELED: &str = "57014";
        match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some(LOCK_NOT_AVAILABLE | QUERY_CANCELED) => Self::TooLong(error),
            Some(_) | None => Self::Database(error),
        }
    }
}

/// Applies a batch for a worker in one transaction; returns what became of each message, in order.
///
/// Updates that change nothing are decided on one snapshot, without a lock on any row: they take effect
/// before whatever others commit later. What changes rest on is locked, without waiting for it, and then
/// read and decided again; what can't be locked defers the updates that need it.
///
/// # Errors
/// When the database refuses the batch or fails, or when the worker's membership has expired: nothing
/// was changed then.
pub async fn apply(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
) -> Result<Vec<Applied>, ApplyError> {
    apply_after(database, member, batch, &Blocked::default()).await
}

/// The same, behind updates that were deferred before.
pub(super) async fn apply_after(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
    blocked: &Blocked,
) -> Result<Vec<Applied>, ApplyError> {
    // A lock that other workers hold is waited for here, whatever is in the batch.
    let mut scope = ScopeGuard::for_batch(database).await?;
    let components = components(batch);
    let facts = read(&mut scope, member, batch, &components).await?;
    let (plan, before, after) = decide(&mut scope, batch, &components, &facts, blocked).await?;
    let new_ids = write(&mut scope, &facts, &plan, &before, &after)
        .await
        .map_err(ApplyError::in_transaction)?;
    scope.commit().await.map_err(ApplyError::in_transaction)?;
    Ok(plan.results(batch, &new_ids))
}

/// Reads what the batch is decided from. The lock may have been waited for, so all is read now that it is
/// held.
async fn read(
    scope: &mut ScopeGuard<'_>,
    member: MemberId,
    batch: &[Incoming],
    components: &[ComponentId],
) -> Result<Facts, ApplyError> {
    let wanted = FactsQuery {
        member,
        updates: batch.iter().filter_map(Incoming::update_id).collect(),
        keys: updates(batch)
            .filter_map(|update| Some(update.idempotency.as_ref()?.key.as_str()))
            .collect(),
        components,
        batch: batch.len(),
    };
    let facts = facts::read(scope, wanted).await.map_err(ApplyError::in_transaction)?;
    if !facts.is_member {
        return Err(ApplyError::Expired);
    }
    if let Some(seconds) = facts.seconds_ahead {
        throttled!(
            warn,
            "clock",
            seconds,
            "the newest decision is ahead of the database's clock, which was wrong or is: the clock \
            counts from now on"
        );
    }
    Ok(facts)
}

/// Decides the batch, and locks what its changes rest on; returns the state before and after it.
async fn decide<'a>(
    scope: &mut ScopeGuard<'_>,
    batch: &'a [Incoming],
    components: &[ComponentId],
    facts: &'a Facts,
    blocked: &Blocked,
) -> Result<(Plan<'a>, ActiveState, ActiveState), ApplyError> {
    let mut before = facts.active.clone();
    let mut locks = RowLocks::default();
    loop {
        let mut after = before.clone();
        let plan = plan(batch, facts, &before, &mut after, &locks, blocked);
        let missing = locks.missing(&plan.rests_on);
        if missing.is_empty() {
            return Ok((plan, before, after));
        }
        let taken = locks.take(scope, &missing, components).await;
        taken.map_err(ApplyError::in_transaction)?;
        // What another session committed before its rows could be locked is seen now.
        let again = active_state::read(scope, components, facts.now, facts.until).await;
        before = again.map_err(ApplyError::in_transaction)?;
    }
}

/// Writes what was decided; returns the ids of the incidents that were opened.
async fn write(
    scope: &mut ScopeGuard<'_>,
    facts: &Facts,
    plan: &Plan<'_>,
    before: &ActiveState,
    after: &ActiveState,
) -> Result<Vec<IncidentId>, sqlx::Error> {
    let changes =
        Changes { before, after, timeline: &plan.timeline, components: &facts.components };
    let new_ids = incidents::write(scope, changes).await?;
    inbox::write(scope, &plan.rows, &new_ids).await?;
    parked::unpark(scope, &plan.rows, &facts.requeued).await?;
    parked::park(scope, &plan.parked, facts.now).await?;
    Ok(new_ids)
}

fn updates(batch: &[Incoming]) -> impl Iterator<Item = &UpdateMessage> + Clone {
    batch.iter().filter_map(|incoming| incoming.content.as_ref().ok())
}

/// Those that the batch has updates of.
fn components(batch: &[Incoming]) -> Vec<ComponentId> {
    let components: BTreeSet<_> = updates(batch).map(|update| update.component.id).collect();
    components.into_iter().collect()
}
