//! The heartbeat: a worker reports to the database twice a second that it is alive, and reads its share.
//!
//! RabbitMQ prevents conflicts: each queue has a single active consumer, so workers whose view is briefly
//! outdated never process one partition concurrently.

use std::time::Duration;

use shared::{
    amqp::topology::{Recorded, TopologyError},
    database::{ConnectOptions, Database},
    process::supervise,
    telemetry::chain,
};
use sqlx::PgConnection;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::share::Share;
use crate::store::{
    topology::reopen_abandoned,
    workers::{self, MemberId},
};

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Time limit of one heartbeat.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(1);
/// A membership expires this long after its last heartbeat, to the worker itself and to all others: the view
/// `sdb_living_worker` has the same time.
const EXPIRY: Duration = Duration::from_secs(3);
/// Time for joining and for leaving.
const MOVE_LIMIT: Duration = Duration::from_secs(5);

/// Why a worker is not a member, or no longer one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("the database did not answer in time")]
    Silent,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("membership expired; its partitions were reassigned")]
    Expired,
}

/// The membership of a worker.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    /// None once it has expired.
    share: watch::Receiver<Option<Share>>,
    leave: CancellationToken,
    heartbeat: JoinHandle<()>,
}

impl Member {
    /// Joins the live workers.
    ///
    /// # Errors
    /// When the database fails or does not answer in time, is a standby, or when the membership expired at
    /// once.
    pub(crate) async fn join(database: &ConnectOptions) -> Result<Self, MembershipError> {
        // Heartbeats need not survive a crash, and a slow disk must not make a worker look dead.
        let mut database = Database::new(database.clone().not_durable());
        let joining = database.with(async |connection: &mut PgConnection| {
            // Reports a standby clearly; a write on it would only fail.
            Recorded::read(connection).await?;
            let id = workers::join(connection).await?;
            let share = heartbeat(connection, id).await?.ok_or(MembershipError::Expired)?;
            Ok::<_, MembershipError>((id, share))
        });
        let last = Instant::now();
        let (id, share) =
            timeout(MOVE_LIMIT, joining).await.map_err(|_| MembershipError::Silent)??;
        tracing::info!(worker = id.0, "joined");
        let (sender, share) = watch::channel(Some(share));
        let leave = CancellationToken::new();
        let heartbeat = Heartbeat { database, id, share: sender, last };
        let heartbeat = supervise::spawn("heartbeat", heartbeat.run(leave.clone()));
        Ok(Self { id, share, leave, heartbeat })
    }

    /// The current share.
    ///
    /// # Errors
    /// When the membership has expired.
    pub(crate) fn share(&self) -> Result<Share, MembershipError> {
        self.share.borrow().clone().ok_or(MembershipError::Expired)
    }

    /// Waits until the share differs from this one, or has expired.
    pub(crate) async fn share_other_than(&self, share: &Share) {
        let mut watched = self.share.clone();
        // An error means that the heartbeat has ended: the share is gone then, too.
        drop(watched.wait_for(|current| current.as_ref() != Some(share)).await);
    }

    /// Waits until the membership has expired.
    pub(crate) async fn expired(&self) {
        let mut watched = self.share.clone();
        drop(watched.wait_for(Option::is_none).await);
    }

    /// Leaves at once, so that the others need not wait until the membership expires.
    pub(crate) async fn leave(self) {
        self.leave.cancel();
        if timeout(MOVE_LIMIT, self.heartbeat).await.is_err() {
            tracing::debug!("the membership could not be ended: it expires soon");
        }
    }
}

/// The task that reports that a worker is alive.
struct Heartbeat {
    database: Database,
    id: MemberId,
    share: watch::Sender<Option<Share>>,
    /// When the last successful heartbeat began.
    last: Instant,
}

impl Heartbeat {
    async fn run(mut self, leave: CancellationToken) {
        loop {
            tokio::select! {
                () = sleep(HEARTBEAT_INTERVAL) => {}
                () = leave.cancelled() => return self.leave().await,
            }
            let began = Instant::now();
            let id = self.id;
            let heartbeat = self
                .database
                .with(async |connection: &mut PgConnection| heartbeat(connection, id).await);
            let result = timeout(HEARTBEAT_LIMIT, heartbeat).await;
            match result.unwrap_or(Err(MembershipError::Silent)) {
                Ok(Some(share)) => {
                    self.last = began;
                    self.share.send_if_modified(|current| {
                        let changed = current.as_ref() != Some(&share);
                        *current = Some(share);
                        changed
                    });
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(reason = chain(&error), "a heartbeat failed");
                    if self.last.elapsed() > EXPIRY {
                        break;
                    }
                }
            }
        }
        self.share.send_replace(None);
    }

    async fn leave(mut self) {
        let id = self.id;
        let left = self
            .database
            .with(async |connection: &mut PgConnection| workers::leave(connection, id).await);
        if let Err(error) = left.await {
            tracing::debug!(
                reason = chain(&error),
                "the membership could not be ended: it expires soon"
            );
        }
    }
}

/// Reports that a worker is alive, and returns its share; none when its membership has expired.
async fn heartbeat(
    database: &mut PgConnection,
    id: MemberId,
) -> Result<Option<Share>, MembershipError> {
    if !workers::heartbeat(database, id).await? {
        return Ok(None);
    }
    let live = workers::live(database).await?;
    let recorded = Recorded::read(database).await?;
    if reopen_abandoned(database, recorded).await? {
        tracing::warn!(
            "the command that changed the queues has died: they are open again, as they were"
        );
    }
    let rank = live.iter().position(|member| *member == id);
    Ok(rank.map(|rank| Share::of(recorded, rank, live.len())))
}
