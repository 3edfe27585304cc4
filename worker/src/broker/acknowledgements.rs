//! Acknowledgements of deliveries whose updates are all settled.
//!
//! For a quorum queue, an acknowledgement costs as much as a message. So they are cumulative, and wait for
//! each other for a moment: what a crash leaves unacknowledged is delivered again, and the inbox
//! recognizes it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::try_join_all;
use lapin::{Acker, options::BasicAckOptions};
use tokio::time::{Instant, timeout};

use super::deliveries::{DeliveryError, Received};

/// Longest time for which an acknowledgement waits for others.
const DELAY: Duration = Duration::from_millis(50);
/// Time limit for sending an acknowledgement.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// The acknowledgements of a session that have not been sent.
pub(super) struct Acknowledgements {
    /// The last settled delivery of each queue: no earlier one is unsettled.
    cumulative: HashMap<Arc<str>, Unsent>,
    /// Settled deliveries of a queue of which an earlier one is unsettled.
    single: Vec<Acker>,
    /// Deliveries of a queue that may wait: RabbitMQ sends no more than the prefetch count.
    limit: usize,
    /// When they are sent at the latest; none if there are none.
    due: Option<Instant>,
}

struct Unsent {
    last: Acker,
    deliveries: usize,
}

impl Acknowledgements {
    /// For queues with this prefetch count.
    pub(super) fn new(prefetch: u16) -> Self {
        let limit = usize::from(prefetch / 2).max(1);
        Self { cumulative: HashMap::new(), single: Vec::new(), limit, due: None }
    }

    /// Adds the deliveries whose last update is among these. `deferred` are the queues with updates that
    /// are still deferred: a cumulative acknowledgement would include them.
    pub(super) fn add<'a>(
        &mut self,
        settled: impl Iterator<Item = &'a Received>,
        deferred: &HashSet<Arc<str>>,
    ) {
        for received in settled {
            let Some(delivery) = received.unsettled.settle_one() else { continue };
            if deferred.contains(&received.queue) {
                self.single.push(delivery.clone());
            } else {
                let queue = self.cumulative.entry(received.queue.clone());
                let unsent =
                    queue.or_insert_with(|| Unsent { last: delivery.clone(), deliveries: 0 });
                unsent.last = delivery.clone();
                unsent.deliveries += 1;
            }
            self.due.get_or_insert_with(|| Instant::now() + DELAY);
        }
    }

    /// When they must be sent at the latest; none if there are none.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_full = |unsent: &Unsent| unsent.deliveries >= self.limit;
        // A single one must not be sent after a cumulative one that includes it.
        if !self.single.is_empty() || self.cumulative.values().any(is_full) {
            return Some(Instant::now());
        }
        self.due
    }

    /// Sends those that are due.
    pub(super) async fn send_due(&mut self) -> Result<(), DeliveryError> {
        if self.due().is_some_and(|due| due <= Instant::now()) { self.send().await } else { Ok(()) }
    }

    /// Sends all.
    pub(super) async fn send(&mut self) -> Result<(), DeliveryError> {
        self.due = None;
        let all = self.cumulative.drain().map(|(_, unsent)| (unsent.last, true));
        let all = all.chain(self.single.drain(..).map(|delivery| (delivery, false)));
        try_join_all(all.map(|(delivery, multiple)| async move {
            let acknowledged = delivery.ack(BasicAckOptions { multiple });
            match timeout(SEND_LIMIT, acknowledged).await {
                Ok(Ok(true)) => Ok(()),
                Ok(Ok(false)) => Err(DeliveryError::Stale),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(DeliveryError::Silent),
            }
        }))
        .await?;
        Ok(())
    }
}
