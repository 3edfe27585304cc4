//! Which workers live, and which partitions are whose.
//!
//! Every worker says in the database twice a second that it lives, and takes every so-manieth
//! partition by its place among the living. RabbitMQ has the last word: each queue has one active
//! consumer, so workers that see each other a moment late never work on one partition at once.

use std::time::Duration;

use shared::{
    database::{ConnectOptions, Database},
    supervise,
    telemetry::chain,
    topology::{Phase, Recorded, Topology, TopologyError},
};
use sqlx::PgConnection;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::reshape::reopen_abandoned;

const BEAT_EVERY: Duration = Duration::from_millis(500);
/// Time for one beat.
const BEAT_LIMIT: Duration = Duration::from_secs(1);
/// After so long without a beat a worker counts as gone, to itself and to all others: the view
/// `sdb_living_worker` says the same.
const LAPSE: Duration = Duration::from_secs(3);
/// Time for joining and for leaving.
const MOVE_LIMIT: Duration = Duration::from_secs(5);

/// One stay of a worker among the living; it gets another one when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct MemberId(pub i64);

/// What one worker is to consume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) recorded: Recorded,
    pub(crate) partitions: Vec<u16>,
    /// One of all workers also parks what RabbitMQ gave up.
    pub(crate) dead_letters: bool,
}

impl Share {
    /// The share of the worker at `place` among `living`; nobody has any while the queues are
    /// closed.
    fn of(recorded: Recorded, place: usize, living: usize) -> Self {
        let all = match recorded.phase {
            Phase::Open | Phase::Draining => 0..recorded.topology.partitions,
            Phase::Closed => 0..0,
        };
        let partitions: Vec<u16> = all.skip(place).step_by(living).collect();
        Self { recorded, dead_letters: place == 0 && !partitions.is_empty(), partitions }
    }

    pub(crate) const fn topology(&self) -> &Topology {
        &self.recorded.topology
    }
}

/// Why a worker is not, or no longer, among the living.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("the database did not answer in time")]
    Silent,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("this worker was away for more than {} s: the others have its partitions", LAPSE.as_secs())]
    Lapsed,
}

/// A worker among the living.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    /// None once it lapsed.
    share: watch::Receiver<Option<Share>>,
    leave: CancellationToken,
    beating: JoinHandle<()>,
}

impl Member {
    /// Joins the living workers.
    pub(crate) async fn join(database: &ConnectOptions) -> Result<Self, MembershipError> {
        // Whether the beat is on disk matters to nobody, and a slow disk must not look like a
        // worker that is gone.
        let mut database = Database::new(database.clone().not_durable());
        let joining = database.with(async |connection: &mut PgConnection| {
            // Of a standby this says so; a write would only say that it failed.
            Recorded::read(connection).await?;
            let id = join(connection).await?;
            let share = beat(connection, id).await?.ok_or(MembershipError::Lapsed)?;
            Ok::<_, MembershipError>((id, share))
        });
        let last = Instant::now();
        let (id, share) =
            timeout(MOVE_LIMIT, joining).await.map_err(|_| MembershipError::Silent)??;
        tracing::info!(worker = id.0, "joined");
        let (sender, share) = watch::channel(Some(share));
        let leave = CancellationToken::new();
        let beating = Beating { database, id, share: sender, last };
        let beating = supervise::spawn("heartbeat", beating.run(leave.clone()));
        Ok(Self { id, share, leave, beating })
    }

    /// What to consume now.
    pub(crate) fn share(&self) -> Result<Share, MembershipError> {
        self.share.borrow().clone().ok_or(MembershipError::Lapsed)
    }

    /// Waits until there is another share than this, or none any more.
    pub(crate) async fn share_other_than(&self, share: &Share) {
        let mut watched = self.share.clone();
        // An error means that nobody beats any more: then, too, the share is gone.
        drop(watched.wait_for(|current| current.as_ref() != Some(share)).await);
    }

    /// Waits until this worker is not among the living any more.
    pub(crate) async fn lapsed(&self) {
        let mut watched = self.share.clone();
        drop(watched.wait_for(Option::is_none).await);
    }

    /// Tells the others at once, so that they need not wait until this worker is missed.
    pub(crate) async fn leave(self) {
        self.leave.cancel();
        if timeout(MOVE_LIMIT, self.beating).await.is_err() {
            tracing::debug!("the others were not told: they will miss this worker soon");
        }
    }
}

/// The task that says that a worker lives.
struct Beating {
    database: Database,
    id: MemberId,
    share: watch::Sender<Option<Share>>,
    /// When the last beat that succeeded began.
    last: Instant,
}

impl Beating {
    async fn run(mut self, leave: CancellationToken) {
        loop {
            tokio::select! {
                () = sleep(BEAT_EVERY) => {}
                () = leave.cancelled() => return self.leave().await,
            }
            let began = Instant::now();
            let id = self.id;
            let beat = self
                .database
                .with(async |connection: &mut PgConnection| beat(connection, id).await);
            let beaten = timeout(BEAT_LIMIT, beat).await;
            match beaten.unwrap_or(Err(MembershipError::Silent)) {
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
                    tracing::debug!(reason = chain(&error), "a beat failed");
                    if self.last.elapsed() > LAPSE {
                        break;
                    }
                }
            }
        }
        self.share.send_replace(None);
    }

    async fn leave(mut self) {
        let id = self.id;
        let left = self.database.with(async |connection: &mut PgConnection| {
            sqlx::query("DELETE FROM sdb_worker WHERE id = $1").bind(id).execute(connection).await
        });
        if let Err(error) = left.await {
            tracing::debug!(reason = chain(&error), "the others were not told");
        }
    }
}

async fn join(database: &mut PgConnection) -> Result<MemberId, sqlx::Error> {
    // What workers that were killed left behind; long after anybody counted them.
    sqlx::query(
        "DELETE FROM sdb_worker
        WHERE seen_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '1 minute'",
    )
    .execute(&mut *database)
    .await?;
    sqlx::query_scalar(
        "INSERT INTO sdb_worker (seen_at) VALUES (clock_timestamp() AT TIME ZONE 'UTC')
        RETURNING id",
    )
    .fetch_one(database)
    .await
}

/// Says that a worker lives, and returns its share; none when the others have missed it.
async fn beat(database: &mut PgConnection, id: MemberId) -> Result<Option<Share>, MembershipError> {
    // Who was missed is not revived: the others have its partitions.
    let beaten = sqlx::query(
        "UPDATE sdb_living_worker SET seen_at = clock_timestamp() AT TIME ZONE 'UTC' WHERE id = $1",
    )
    .bind(id)
    .execute(&mut *database)
    .await?;
    if beaten.rows_affected() == 0 {
        return Ok(None);
    }
    let living: Vec<MemberId> = sqlx::query_scalar("SELECT id FROM sdb_living_worker ORDER BY id")
        .fetch_all(&mut *database)
        .await?;
    let recorded = Recorded::read(database).await?;
    if reopen_abandoned(database, recorded).await? {
        tracing::warn!(
            "the command that changed the queues has died: they are open again, as they were"
        );
    }
    let place = living.iter().position(|member| *member == id);
    Ok(place.map(|place| Share::of(recorded, place, living.len())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(partitions: u16, phase: Phase) -> Recorded {
        let topology = Topology { version: 1, partitions, queue_limit: 1, prefetch: 1 };
        Recorded { topology, phase }
    }

    proptest! {
        #[test]
        fn every_partition_is_one_workers_and_all_have_as_many(
            partitions in 1..=1024_u16,
            living in 1..=40_usize,
        ) {
            let shares: Vec<Share> = (0..living)
                .map(|place| Share::of(recorded(partitions, Phase::Open), place, living))
                .collect();
            let mut all: Vec<u16> = shares.iter().flat_map(|s| s.partitions.clone()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..partitions).collect::<Vec<_>>());
            let counts: Vec<usize> = shares.iter().map(|s| s.partitions.len()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            prop_assert_eq!(shares.iter().filter(|s| s.dead_letters).count(), 1);
        }
    }

    #[test]
    fn closed_queues_are_nobodys() {
        let share = Share::of(recorded(8, Phase::Closed), 0, 1);
        assert!(share.partitions.is_empty() && !share.dead_letters);
    }
}
