//! The transaction that applies a batch. It is idempotent: updates that are in the inbox are ignored, and
//! it has no effect outside the database.

use std::collections::{BTreeSet, HashMap};

use shared::{
    domain::{component::ComponentId, condition::Condition, incident::IncidentId},
    throttled,
    wire::message::{Report, UpdateMessage},
};
use sqlx::PgConnection;

use super::{
    crowded_components,
    deferred::Blocked,
    message::{Incoming, MessageResult},
    plan::{Plan, plan},
};
use crate::{
    domain::{ActiveState, ReportId},
    store::{
        active_state,
        facts::{self, Facts, FactsQuery},
        inbox,
        incident_row_locks::RowLocks,
        incidents::{self, Changes},
        parked,
        reports::{ReportsQuery, ReportsWritten},
        state_lock::ScopeGuard,
        workers::MemberId,
    },
};

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The worker's membership has expired: its partitions are assigned to others.
    #[error("membership expired; its partitions were reassigned")]
    Expired,
    /// While it held the scope's lock, the transaction waited too long for other locks, or took too long.
    /// Fewer updates may need fewer locked rows.
    #[error("the transaction took too long")]
    TooLong(#[source] sqlx::Error),
    /// The database refused the batch, or failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl ApplyError {
    /// An error of a statement executed while the scope's lock was held.
    fn in_transaction(error: sqlx::Error) -> Self {
        /// SQLSTATE lock_not_available.
        const LOCK_NOT_AVAILABLE: &str = "55P03";
        /// SQLSTATE query_canceled, also after a statement timeout.
        const QUERY_CANCELED: &str = "57014";
        match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some(LOCK_NOT_AVAILABLE | QUERY_CANCELED) => Self::TooLong(error),
            Some(_) | None => Self::Database(error),
        }
    }
}

/// Applies a batch for a worker in one transaction; returns the result of each message, in order.
///
/// Updates that change nothing are decided on one snapshot, without row locks: they take effect before
/// anything that others commit later. The rows that changes depend on are locked without waiting, and the
/// batch is then read and decided again; updates that depend on rows which can't be locked are deferred.
///
/// # Errors
/// When the database refuses the batch or fails, or when the worker's membership has expired. Nothing was
/// changed then.
pub async fn apply(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
) -> Result<Vec<MessageResult>, ApplyError> {
    apply_after(database, member, batch, &Blocked::default()).await
}

/// The same, after updates that were deferred before.
pub(super) async fn apply_after(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
    blocked: &Blocked,
) -> Result<Vec<MessageResult>, ApplyError> {
    // Counting each component's reports and locking each component would cost every batch something, and hardly
    // ever matters.
    let mut is_careful = false;
    loop {
        let applied = attempt(database, member, batch, blocked, is_careful).await?;
        if let Some(applied) = applied {
            return Ok(applied);
        }
        is_careful = true;
    }
}

/// One transaction. None if it was rolled back, because a component whose reports were not counted may have too many
/// of them, or because a component was deleted or locked meanwhile: then all are counted and locked.
async fn attempt(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
    blocked: &Blocked,
    is_careful: bool,
) -> Result<Option<Vec<MessageResult>>, ApplyError> {
    // Only this statement waits for a lock that other workers hold.
    let mut scope = ScopeGuard::for_batch(database).await?;
    let components = components(batch, |_| true);
    let reports = reports(batch, is_careful);
    let mut facts = read(&mut scope, member, batch, &components, reports).await?;
    if is_careful {
        facts.may_be_held.extend(&components);
    }
    let (plan, before, after) = decide(&mut scope, batch, &components, &facts, blocked).await?;
    let (new_ids, reports) = write(&mut scope, &facts, &plan, &before, &after)
        .await
        .map_err(ApplyError::in_transaction)?;
    let none = HashMap::new();
    let counted = facts.reports.as_ref().map_or(&none, |read| &read.live);
    crowded_components::note(&reports.crowded, counted);
    if reports.is_outdated(counted) {
        scope.rollback().await.map_err(ApplyError::in_transaction)?;
        return Ok(None);
    }
    scope.commit().await.map_err(ApplyError::in_transaction)?;
    Ok(Some(plan.results(&new_ids)))
}

/// Reads what the batch is decided from, after the lock is acquired: others may have committed while it
/// waited.
async fn read(
    scope: &mut ScopeGuard<'_>,
    member: MemberId,
    batch: &[Incoming],
    components: &[ComponentId],
    reports: Option<ReportsQuery<'_>>,
) -> Result<Facts, ApplyError> {
    let wanted = FactsQuery {
        member,
        updates: batch.iter().filter_map(Incoming::update_id).collect(),
        keys: updates(batch)
            .filter_map(|update| Some(update.idempotency.as_ref()?.key.as_str()))
            .collect(),
        components,
        batch: batch.len(),
        reports,
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

/// Decides the batch, and locks the rows that its changes depend on; returns the state before and after
/// it.
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
        // Sees what other sessions committed before the rows were locked.
        let again = active_state::read(scope, components, facts.now, facts.until).await;
        before = again.map_err(ApplyError::in_transaction)?;
    }
}

/// Writes the decisions; returns the ids of the opened incidents.
async fn write(
    scope: &mut ScopeGuard<'_>,
    facts: &Facts,
    plan: &Plan<'_>,
    before: &ActiveState,
    after: &ActiveState,
) -> Result<(Vec<IncidentId>, ReportsWritten), sqlx::Error> {
    let changes =
        Changes { before, after, timeline: &plan.timeline, components: &facts.components };
    let new_ids = incidents::write(scope, changes).await?;
    let reports = inbox::write(scope, &plan.rows, &new_ids, &plan.reports).await?;
    parked::unpark(scope, &plan.rows, &facts.requeued).await?;
    parked::park(scope, &plan.parked, facts.now).await?;
    Ok((new_ids, reports))
}

fn updates(batch: &[Incoming]) -> impl Iterator<Item = &UpdateMessage> + Clone {
    batch.iter().filter_map(|incoming| incoming.content.as_ref().ok())
}

/// The components of those updates of the batch.
fn components(batch: &[Incoming], of: impl Fn(&UpdateMessage) -> bool) -> Vec<ComponentId> {
    let components: BTreeSet<_> =
        updates(batch).filter(|update| of(update)).map(|update| update.component.id).collect();
    components.into_iter().collect()
}

/// The reports that must be read. A batch that only begins or renews some, without a start, does not depend on what
/// they were.
fn reports(batch: &[Incoming], counts_all: bool) -> Option<ReportsQuery<'_>> {
    let crowded = crowded_components::lock();
    let is_counted = |update: &UpdateMessage| {
        counts_all
            || update.condition == Condition::Ok
            || (update.report.is_some() && crowded.contains(&update.component.id))
    };
    let depends = |update: &UpdateMessage| {
        let has_start = |report: &Report| report.starts_at.is_some();
        is_counted(update) || update.report.as_ref().is_some_and(has_start)
    };
    if !updates(batch).any(depends) {
        return None;
    }
    let named: BTreeSet<_> = updates(batch).filter_map(ReportId::of).collect();
    let counted = components(batch, is_counted);
    Some(ReportsQuery { named: named.into_iter().collect(), counted })
}
