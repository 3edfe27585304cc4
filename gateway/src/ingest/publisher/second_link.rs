//! A second link, to another node of a cluster, that is ready when the first one fails.
//!
//! While a node stalls, no exchange can be declared in the whole cluster, and RabbitMQ does not confirm what a
//! new channel publishes to a queue that this node led. So both are done ahead: the second link has its
//! exchange, and each of its channels has published a marker.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use parking_lot::Mutex;
use shared::{amqp::topology::Topology, process::supervise, telemetry::chain, wire::message};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    exchange::Later,
    link::{LOOK_EVERY, Link, LinkError, OPEN_LIMIT, Opening, SECOND_PURPOSE},
};

/// Pause after it was lost or could not be opened.
const PAUSE: Duration = Duration::from_secs(5);
/// Time for the first markers: longer than an election, or than RabbitMQ waits for a node that stalls.
const MARKERS_LIMIT: Duration = Duration::from_secs(30);
const MARK_PAUSE: Duration = Duration::from_secs(1);
/// Time for a marker that shows whether this node takes what another one does not.
const COMPARE_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two of these.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// The second link, if there is one.
#[derive(Default)]
pub(super) struct SecondLink {
    link: ArcSwapOption<Link>,
    /// When it was last compared with the first one.
    compared: Mutex<Option<Instant>>,
}

impl SecondLink {
    /// Keeps one open, until this is dropped, if there are several nodes. The exchanges of those that were lost
    /// are deleted later.
    pub(super) fn keep(
        self: &Arc<Self>,
        with: Opening,
        topology: Topology,
        later: Later,
    ) -> Option<AbortOnDropHandle<()>> {
        if !with.broker.has_several_hosts() {
            return None;
        }
        let second = self.clone();
        let keeping = supervise::keep("second link", async move {
            loop {
                let opening = timeout(OPEN_LIMIT, Link::open_apart(&with, topology));
                match opening.await.unwrap_or(Err(LinkError::Silent)) {
                    Ok(link) => {
                        second.link.store(Some(link.clone()));
                        let reason = serve(&link).await;
                        tracing::info!(reason, "the second connection to RabbitMQ is given up");
                        with.broker.lost(SECOND_PURPOSE, reason);
                        second.discard(&later);
                    }
                    Err(error) => {
                        tracing::debug!(reason = chain(&error), "no second connection to RabbitMQ");
                    }
                }
                sleep(PAUSE).await;
            }
        });
        Some(AbortOnDropHandle::new(keeping))
    }

    /// Takes it, to be used instead of the first one.
    pub(super) fn take(&self) -> Option<Arc<Link>> {
        self.link.swap(None)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.link.load().is_some()
    }

    /// Closes it, if there is one, and has its exchange deleted.
    pub(super) fn discard(&self, later: &Later) {
        if let Some(link) = self.take() {
            later.delete(&link.exchange);
        }
    }

    /// Whether it takes what is published to this partition, where the first one confirms nothing: then the
    /// queue is well, and the first one's node is not. It is tried at intervals.
    pub(super) async fn takes(&self, partition: u16) -> bool {
        let Some(link) = self.link.load_full().filter(|link| knows_markers(&link.topology)) else {
            return false;
        };
        let now = Instant::now();
        self.may_compare(now) && link.mark(partition, now + COMPARE_LIMIT).await
    }

    fn may_compare(&self, now: Instant) -> bool {
        let mut compared = self.compared.lock();
        let is_due = compared.is_none_or(|last| last + COMPARE_EVERY <= now);
        if is_due {
            *compared = Some(now);
        }
        is_due
    }
}

/// Until it is lost; returns why.
async fn serve(link: &Link) -> &'static str {
    let marking = async {
        if knows_markers(&link.topology) {
            let deadline = Instant::now() + MARKERS_LIMIT;
            let partitions = 0..link.topology.partitions;
            let marked = join_all(partitions.map(|one| mark(link, one, deadline))).await;
            if !marked.contains(&true) {
                return "it took no updates";
            }
        }
        tracing::info!("the second connection to RabbitMQ is ready");
        std::future::pending().await
    };
    tokio::select! {
        reason = marking => reason,
        () = lost(link) => "the connection was given up",
    }
}

/// Publishes markers to a partition until one is confirmed: the first ones may be refused.
async fn mark(link: &Link, partition: u16, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        if link.mark(partition, deadline).await {
            return true;
        }
        sleep(MARK_PAUSE).await;
    }
    false
}

async fn lost(link: &Link) {
    while link.is_alive() {
        sleep(LOOK_EVERY).await;
    }
}

/// Whether all workers acknowledge markers: those that read this version of messages do.
const fn knows_markers(topology: &Topology) -> bool {
    topology.wire >= message::REPORTS
}
