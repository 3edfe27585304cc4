//! What the lanes of a link have in common.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{
    Connection,
    options::QueueDeclareOptions,
    types::{FieldTable, ShortString},
};
use shared::{amqp::topology::Topology, telemetry::metrics::GATEWAY};
use tokio::time::{Instant, timeout};

use super::{
    PublishError, channels::ChannelPool, confirms::Confirmed, node_progress::NodeProgress,
};
use crate::ingest::pending::PendingRequests;

/// Time for finding out whether a queue is full.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// What each lane of a link has.
#[derive(Clone)]
pub(super) struct LinkShared {
    pub(super) channels: ChannelPool,
    pub(super) exchange: ShortString,
    pub(super) topology: Topology,
    pub(super) pending: Arc<PendingRequests>,
    /// Whether there are several nodes of a cluster to connect to.
    pub(super) is_cluster: bool,
    /// The channels that were given up since the last confirmation, and the silent partitions.
    pub(super) progress: Arc<NodeProgress>,
    /// Set when the link is to be given up.
    pub(super) failed: Arc<AtomicBool>,
    /// Set when a queue or its binding is missing.
    pub(super) incomplete: Arc<AtomicBool>,
}

impl LinkShared {
    fn connection(&self) -> &Connection {
        &self.channels.manager().connection
    }

    /// Whether RabbitMQ is short of memory or disk.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection().status().blocked()
    }

    /// Whether the queue of a partition, which has refused something, is known to be full. A queue without a leader
    /// counts as empty.
    pub(super) async fn is_full(&self, partition: u16) -> bool {
        let looking = async {
            let channel = self.connection().create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            let (queue, none) = (self.topology.queue(partition).into(), FieldTable::default());
            let length = channel.queue_declare(queue, passive, none).await?.message_count();
            channel.close(200, "measured".into()).await?;
            Ok::<u32, lapin::Error>(length)
        };
        let full_from = self.topology.full_from();
        matches!(timeout(LOOK_LIMIT, looking).await, Ok(Ok(length)) if length >= full_from)
    }

    /// A channel is given up: its messages were refused or are overdue. If several were and none of the link
    /// gets a confirmation, another node is tried.
    pub(super) fn channel_given_up(&self) {
        if self.progress.given_up(Instant::now()) && self.is_cluster {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// A channel with unconfirmed messages is not closed in time. While RabbitMQ is short of memory or disk, the link
    /// is given up: nothing that it has not read is queued once it reads again. Otherwise only the channel counts.
    pub(super) fn channel_closes_late(&self) {
        if self.is_blocked() {
            self.failed.store(true, Ordering::Relaxed);
        } else {
            self.channel_given_up();
        }
    }

    /// The result for the clients of a confirmation; its consequence for the link is recorded.
    pub(super) fn result(&self, confirmed: Confirmed) -> Result<(), PublishError> {
        match confirmed {
            Confirmed::Queued => {
                self.progress.confirmed();
                GATEWAY.messages.inc();
                Ok(())
            }
            Confirmed::Refused => Err(PublishError::Unavailable),
            Confirmed::Returned => {
                // The queue or its binding is missing: it is declared again.
                self.incomplete.store(true, Ordering::Relaxed);
                Err(PublishError::NoQueue)
            }
            Confirmed::Unknown => {
                self.incomplete.store(true, Ordering::Relaxed);
                Err(PublishError::Unconfirmed)
            }
            Confirmed::Failed => {
                self.failed.store(true, Ordering::Relaxed);
                Err(PublishError::Unconfirmed)
            }
        }
    }
}
