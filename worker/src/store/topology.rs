//! Writes the record of the topology.
//!
//! The record is not open only while a command is changing it, and that command holds a lock for as long
//! as its session with the database lasts. So a worker that finds the record not open and the lock free
//! knows that the command died, and opens the queues again: they are as they were until a change is
//! recorded. Each step of a command goes through the session that holds the lock, so that one which lost
//! it can't record anything any more.

use anyhow::{Result, ensure};
use shared::topology::{Phase, Recorded, Topology};
use sqlx::{Connection, PgConnection};

use super::workers::{self, MemberId};

/// Seconds in which the session of a command that stalls is ended, which gives its lock back. Longer than
/// all that a change does between two statements.
const STALL_LIMIT: u8 = 12;

/// Has the server end this session when its command stalls. Before PostgreSQL 14 it can't.
pub(crate) async fn end_when_stalled(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    set_idle_limit(database, &format!("{STALL_LIMIT}s")).await
}

/// Lets the session be idle again for as long as it likes.
pub(crate) async fn may_stall(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    set_idle_limit(database, "0").await
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

/// Records a topology and its phase in place of an old one. Nobody declares queues meanwhile, and no
/// worker joins that can't read the messages.
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
            wire = $5, phase = $6
        WHERE version = $7",
    )
    .bind(new.version)
    .bind(i32::from(new.partitions))
    .bind(i32::try_from(new.queue_limit)?)
    .bind(i32::from(new.prefetch))
    .bind(i32::from(new.wire))
    .bind(phase.word())
    .bind(old.version)
    .execute(&mut *transaction)
    .await?;
    ensure!(recorded.rows_affected() == 1, "somebody else changed the recorded topology meanwhile");
    if new.wire > old.wire {
        // Those that join from now on wait for this transaction: the trigger `sdb_check_wire`.
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

/// Opens the queues again that a command closed before it died. Returns whether it did. Waits for
/// nothing: who asks is a worker that must report that it is alive.
pub(crate) async fn reopen_abandoned(
    database: &mut PgConnection,
    recorded: Recorded,
) -> Result<bool, sqlx::Error> {
    if recorded.phase == Phase::Open {
        return Ok(false);
    }
    let mut transaction = database.begin().await?;
    // The connection of the heartbeats does not wait for the disk; this counts.
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
