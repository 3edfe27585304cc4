//! Applies a batch in spite of failures of the database: retries temporary errors, and parks what it
//! refuses.

use std::time::Duration;

use shared::{
    database::Database,
    domain::update_id::UpdateId,
    telemetry::{
        chain,
        metrics::{Ended, WORKER},
        traces,
    },
    throttled,
};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::{
    apply::{ApplyError, apply_after},
    deferred::Blocked,
    message::{Incoming, MessageResult, Unusable},
    standby_wait::within,
};
use crate::store::{inbox_partitions, workers::MemberId};

/// The pause after the first failure of a batch; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The maximum of these pauses.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Time limit of one transaction: longer than the server's limits for its statements.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);
/// Attempts of an update that is alone in its batch, after which it is parked.
const TRIES_BEFORE_PARKING: u32 = 3;

/// How to handle an error of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// It is temporary: retry the same batch.
    TryAgain,
    /// A message of the batch causes it.
    Park,
    /// Fewer updates may take less time, or need fewer locked rows.
    Halve,
}

/// The classes of SQLSTATE that blame the data: data exception, integrity constraint violation,
/// view check, program limit exceeded, and an exception raised by a trigger. All others, unknown
/// ones included, are for the server or the operator to fix: parking for them would park all.
const BLAMES_DATA: [&str; 5] = ["22", "23", "44", "54", "P0"];

/// How to handle an error that the database returned for a batch.
async fn remedy(database: &mut Database, error: &sqlx::Error, inbox_days: u32) -> Remedy {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        // Partitions may be missing for all updates, not only for one with an implausible id.
        Some(_) if is_without_partition(error) => {
            create_ahead(database, inbox_days).await.map_or(Remedy::TryAgain, |()| Remedy::Park)
        }
        Some(code) if BLAMES_DATA.iter().any(|class| code.starts_with(class)) => Remedy::Park,
        Some(_) | None => Remedy::TryAgain,
    }
}

/// The membership of the worker has expired: it can't commit anything.
#[derive(Debug)]
pub(crate) struct Expired;

/// Applies a batch and returns the result of each message, however long the database is unavailable. It
/// can be dropped at any point and run again.
///
/// A batch that the database refuses, or that takes too long, is halved until the message that causes it
/// is isolated. A message that is refused repeatedly is parked with the database's reason; one that takes
/// too long is deferred. The others are applied in their order.
pub(crate) async fn apply_with_retries(
    database: &mut Database,
    member: MemberId,
    batch: &[Incoming],
    inbox_days: u32,
) -> Result<Vec<MessageResult>, Expired> {
    apply_with_retries_after(database, member, batch, inbox_days, &Blocked::default()).await
}

async fn apply_with_retries_after(
    database: &mut Database,
    member: MemberId,
    batch: &[Incoming],
    inbox_days: u32,
    blocked: &Blocked,
) -> Result<Vec<MessageResult>, Expired> {
    let mut pause = FIRST_PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        let (remedy, error) = match attempt(database, member, batch, blocked).await {
            Ok(results) => return Ok(results),
            Err(ApplyError::Expired) => return Err(Expired),
            Err(ApplyError::TooLong(error)) => (Remedy::Halve, error),
            Err(ApplyError::Database(error)) => (remedy(database, &error, inbox_days).await, error),
        };
        match (remedy, batch) {
            // A concurrent write may be the reason, which is temporary.
            (Remedy::Park, [_]) if tries < TRIES_BEFORE_PARKING => {}
            (Remedy::Park, [one]) => {
                if let Some(results) = park(database, member, one, &error, blocked).await? {
                    return Ok(results);
                }
            }
            (Remedy::Halve, [_]) => {
                report(&error, batch);
                return Ok(vec![MessageResult::Deferred(Vec::new())]);
            }
            (Remedy::Park | Remedy::Halve, several) => {
                let (updates, reason) = (several.len(), chain(&error));
                throttled!(
                    info,
                    &reason,
                    updates,
                    reason,
                    "the database does not take the batch: halving it"
                );
                return halve(database, member, several, inbox_days, blocked).await;
            }
            (Remedy::TryAgain, several) => report(&error, several),
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Parks a message that the database refuses with this error; none if that failed, too, which is reported.
async fn park(
    database: &mut Database,
    member: MemberId,
    incoming: &Incoming,
    error: &sqlx::Error,
    blocked: &Blocked,
) -> Result<Option<Vec<MessageResult>>, Expired> {
    let refused = [refused(incoming, error)];
    match attempt(database, member, &refused, blocked).await {
        Ok(results) => Ok(Some(results)),
        Err(ApplyError::Expired) => Err(Expired),
        Err(ApplyError::TooLong(error) | ApplyError::Database(error)) => {
            report(&error, &refused);
            Ok(None)
        }
    }
}

/// Applies a batch in two halves. Updates deferred by the first block those of the second.
async fn halve(
    database: &mut Database,
    member: MemberId,
    batch: &[Incoming],
    inbox_days: u32,
    blocked: &Blocked,
) -> Result<Vec<MessageResult>, Expired> {
    let (first, second) = batch.split_at(batch.len() / 2);
    let mut blocked = blocked.clone();
    let mut results =
        Box::pin(apply_with_retries_after(database, member, first, inbox_days, &blocked)).await?;
    for (incoming, applied) in first.iter().zip(&results) {
        if let (Ok(update), MessageResult::Deferred(_)) = (&incoming.content, applied) {
            blocked.add(update);
        }
    }
    let rest =
        Box::pin(apply_with_retries_after(database, member, second, inbox_days, &blocked)).await?;
    results.extend(rest);
    Ok(results)
}

/// Whether the inbox has no partition for the id: PostgreSQL names no constraint then.
fn is_without_partition(error: &sqlx::Error) -> bool {
    const CHECK_VIOLATION: &str = "23514";
    error.as_database_error().is_some_and(|error| {
        error.code().as_deref() == Some(CHECK_VIOLATION) && error.constraint().is_none()
    })
}

async fn create_ahead(database: &mut Database, inbox_days: u32) -> Result<(), sqlx::Error> {
    let create = async |connection: &mut PgConnection| {
        inbox_partitions::create_ahead(connection, inbox_days).await
    };
    database.with(create).await
}

async fn attempt(
    database: &mut Database,
    member: MemberId,
    batch: &[Incoming],
    blocked: &Blocked,
) -> Result<Vec<MessageResult>, ApplyError> {
    let began = Instant::now();
    let transaction = traces::get().and_then(|traces| {
        traces.transaction(batch.len(), batch.iter().filter_map(|one| one.trace.as_ref()))
    });
    let options = database.options().clone();
    let applying = database.with(async |connection: &mut PgConnection| {
        apply_after(connection, member, batch, blocked).await
    });
    // After a timeout the state of the connection is unknown: it is closed, and can't commit later.
    let applied =
        within(ATTEMPT_LIMIT, Duration::MAX, applying, &options).await.unwrap_or_else(|| {
            let silent = sqlx::Error::Protocol("the database did not answer in time".to_owned());
            Err(ApplyError::TooLong(silent))
        });
    let ended = if applied.is_ok() { Ended::Committed } else { Ended::Failed };
    WORKER.transaction_duration.of(ended).observe(began.elapsed().as_secs_f64());
    if let Some(transaction) = transaction {
        match &applied {
            Ok(_) => transaction.committed(),
            Err(ApplyError::TooLong(error) | ApplyError::Database(error)) => {
                transaction.failed(sqlstate(error));
            }
            Err(ApplyError::Expired) => transaction.failed(None),
        }
    }
    applied
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

/// The same message, marked to be parked.
fn refused(incoming: &Incoming, error: &sqlx::Error) -> Incoming {
    let reason = if is_without_partition(error) {
        match incoming.update_id().and_then(UpdateId::made_at) {
            Some(made_at) => format!(
                "the inbox has no partition for {:.10}, the day of its id: it is older than SDB_INBOX_DAYS, or \
                 weeks ahead of PostgreSQL's clock",
                made_at.to_the_microsecond()
            ),
            None => "the inbox has no partition for its id, which is no UUIDv7: no gateway made it"
                .to_owned(),
        }
    } else {
        chain(error)
    };
    Incoming {
        queue: incoming.queue.clone(),
        message_id: incoming.update_id().map(|id| id.to_string()),
        payload: incoming.payload.clone(),
        trace: incoming.trace.clone(),
        content: Err(Unusable::Refused(reason)),
    }
}

fn report(error: &sqlx::Error, batch: &[Incoming]) {
    let (updates, reason) = (batch.len(), chain(error));
    // The log line has the trace if it concerns a single message.
    let trace_id = match batch {
        [one] => one.trace.as_ref().and_then(|trace| trace.id()).map(tracing::field::display),
        _ => None,
    };
    throttled!(warn, &reason, updates, trace_id, reason, "the database failed: trying again");
}
