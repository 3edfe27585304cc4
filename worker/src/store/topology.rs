//! Writes the record of the topology.
//!
//! The record is not open only while a command changes the topology, and that command holds a lock until
//! its database session ends. So a worker that finds the record not open and the lock free knows that the
//! command died, and opens the queues again: they are unchanged until a new topology is recorded. Every
//! step of a command uses the session that holds the lock, so that a command which lost the lock can't
//! record anything.

use std::{pin::pin, time::Duration};

use anyhow::{Context, Result, ensure};
use shared::amqp::topology::{Phase, Recorded, Topology};
use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};

use super::workers::{self, MemberId};

/// Seconds after which the session of a stalled command is terminated, which releases its lock. Longer
/// than any pause of a change between two statements.
const STALL_LIMIT: u8 = 12;
/// How often the session is asked meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Time for an answer.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Makes the server terminate this session if its command stalls. PostgreSQL before 14 does not support
/// this.
pub(crate) async fn end_when_stalled(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    set_idle_limit(database, &format!("{STALL_LIMIT}s")).await
}

/// Permits the session to be idle again.
pub(crate) async fn may_stall(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    set_idle_limit(database, "0").await
}

/// Does work that does not use the session. Asks the session right before and every second: so it is not idle, and
/// the work is given up once the lock may be lost.
pub(crate) async fn while_locked<T>(
    database: &mut PgConnection,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = pin!(work);
    loop {
        let asking = sqlx::query("SELECT 1").execute(&mut *database);
        timeout(ASK_LIMIT, asking).await.context("the database does not answer")??;
        tokio::select! {
            done = &mut work => return done,
            () = sleep(ASK_EVERY) => {}
        }
    }
}

async fn set_idle_limit(database: &mut PgConnection, limit: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config(name, $1, false) FROM pg_settings WHERE name = 'idle_session_timeout'",
    )
    .bind(limit)
    .execute(database)
    .await?;
    Ok(())
}

/// Replaces the recorded topology and its phase. Meanwhile no queues are declared, and no worker joins
/// that can't read the messages.
pub(crate) async fn record(
    database: &mut PgConnection,
    old: Topology,
    new: Topology,
    phase: Phase,
) -> Result<()> {
    let mut transaction = database.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sdb_topology'))")
        .execute(&mut *transaction)
        .await?;
    let recorded = sqlx::query(
        "UPDATE sdb_topology SET version = $1, partitions = $2, queue_limit = $3, prefetch = $4,
            wire = $5, arguments = $6, phase = $7
        WHERE version = $8",
    )
    .bind(new.version)
    .bind(i32::from(new.partitions))
    .bind(i32::try_from(new.queue_limit)?)
    .bind(i32::from(new.prefetch))
    .bind(i32::from(new.wire))
    .bind(i32::from(new.arguments))
    .bind(phase.word())
    .bind(old.version)
    .execute(&mut *transaction)
    .await?;
    ensure!(
        recorded.rows_affected() == 1,
        "another command changed the recorded topology meanwhile"
    );
    if new.wire > old.wire {
        // Workers that join now wait for this transaction, because of the trigger `sdb_check_wire`.
        expect_all_read(&mut transaction, new.wire).await?;
    }
    Ok(transaction.commit().await?)
}

/// Checks that every live worker reads this version of messages.
pub(crate) async fn expect_all_read(database: &mut PgConnection, wire: u16) -> Result<()> {
    let unable = workers::that_cannot_read(database, wire).await?;
    let ids: Vec<String> = unable.iter().map(|MemberId(id)| id.to_string()).collect();
    ensure!(
        unable.is_empty(),
        "these live workers can't read version {wire} of messages: {}; replace them by a newer release first",
        ids.join(", ")
    );
    Ok(())
}

/// Opens the queues again that a command closed before it died. Returns whether it did. It never waits,
/// because it runs as a part of the heartbeat.
pub(crate) async fn reopen_abandoned(
    database: &mut PgConnection,
    recorded: Recorded,
) -> Result<bool, sqlx::Error> {
    if recorded.phase == Phase::Open {
        return Ok(false);
    }
    let mut transaction = database.begin().await?;
    // The connection of the heartbeats commits asynchronously; this commit must be durable.
    sqlx::query("SET LOCAL synchronous_commit = on").execute(&mut *transaction).await?;
    let is_abandoned: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtext('sdb_migrate'))")
            .fetch_one(&mut *transaction)
            .await?;
    if !is_abandoned {
        return Ok(false);
    }
    let nobody_declares: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtext('sdb_topology'))")
            .fetch_one(&mut *transaction)
            .await?;
    if !nobody_declares {
        return Ok(false);
    }
    let opened =
        sqlx::query("UPDATE sdb_topology SET phase = $1 WHERE version = $2 AND phase <> $1")
            .bind(Phase::Open.word())
            .bind(recorded.topology.version)
            .execute(&mut *transaction)
            .await?;
    transaction.commit().await?;
    Ok(opened.rows_affected() == 1)
}
