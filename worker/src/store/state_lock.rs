//! The lock on the state: the row of the scope, which every batch and every operator's change locks until the
//! end of its transaction.

use shared::domain::timestamp::Timestamp;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

/// Begins a worker's transaction.
///
/// Every worker waits for this transaction, so that a further wait for a lock is limited to half a
/// second. Incidents and their components are never waited for, but an incident that is being inserted may be, or
/// a component that another session locked just now.
///
/// When components were affected is only noted (`migrations/0011_affected_later.sql`): everybody waits meanwhile.
const BEGIN_BATCH: &str =
    "BEGIN; SELECT FROM sdb_scope FOR UPDATE; SET LOCAL lock_timeout = '500ms';
    SET LOCAL sdb.affected_later = 'on'";

/// Takes the lock in an operator's transaction. Every worker waits for it, so PostgreSQL ends it if the
/// command stalls or waits too long.
const BY_OPERATOR: &str = "SET LOCAL idle_in_transaction_session_timeout = '5s';
    SELECT FROM sdb_scope FOR UPDATE;
    SET LOCAL lock_timeout = '5s'";

/// A transaction that holds the lock: functions that need the lock take one of these.
pub(crate) struct ScopeGuard<'a>(Transaction<'a, Postgres>);

impl<'a> ScopeGuard<'a> {
    /// Waits for the lock, for a worker's batch.
    ///
    /// # Errors
    /// When another transaction holds the lock for longer than `lock_timeout`, or the database fails; the
    /// batch is tried again.
    pub(crate) async fn for_batch(database: &'a mut PgConnection) -> Result<Self, sqlx::Error> {
        Ok(Self(database.begin_with(BEGIN_BATCH).await?))
    }

    /// Waits for the lock, for an operator's command.
    ///
    /// # Errors
    /// When other transactions hold the lock for longer than `lock_timeout`, or the database fails.
    pub(crate) async fn for_operator(database: &'a mut PgConnection) -> Result<Self, sqlx::Error> {
        Self::take(database.begin().await?).await
    }

    /// Waits for the lock in a transaction that an operator's command has begun.
    ///
    /// # Errors
    /// Those of [`Self::for_operator`]; the transaction is rolled back.
    pub(crate) async fn take(
        mut transaction: Transaction<'a, Postgres>,
    ) -> Result<Self, sqlx::Error> {
        sqlx::raw_sql(BY_OPERATOR).execute(&mut *transaction).await?;
        Ok(Self(transaction))
    }

    /// The session of the transaction.
    pub(crate) fn session(&mut self) -> &mut PgConnection {
        &mut self.0
    }

    /// Moves the time of the newest decision to now, for a change that an operator makes; returns it.
    ///
    /// An operator's change counts as a decision: the next one is later even if the clock is set back a
    /// little. If the newest is far ahead, the clock is used, as for a batch (`facts`).
    ///
    /// # Errors
    /// When the database fails; the transaction is rolled back.
    pub(crate) async fn decide_now(&mut self) -> Result<Timestamp, sqlx::Error> {
        sqlx::query_scalar(
            "UPDATE sdb_scope SET decided_at = CASE
                WHEN decided_at > wall.time + interval '10 seconds' THEN wall.time
                ELSE greatest(wall.time, decided_at + interval '1 microsecond') END
            FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS time OFFSET 0) AS wall
            RETURNING decided_at",
        )
        .fetch_one(self.session())
        .await
    }

    /// Commits, which releases the lock.
    ///
    /// # Errors
    /// When the database fails. A commit whose answer was lost may have succeeded.
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }

    /// Rolls the transaction back, which releases the lock.
    ///
    /// # Errors
    /// When the connection breaks; PostgreSQL rolls the transaction back then, too.
    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        self.0.rollback().await
    }
}
