//! Acknowledgements of deliveries whose updates are all settled.
//!
//! For a quorum queue, an acknowledgement costs as much as a message. So they are cumulative, and wait for
//! each other for a moment: what a crash leaves unacknowledged is delivered again, and the inbox
//! recognizes it.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, future::pending, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use lapin::{Acker, options::BasicAckOptions};
use tokio::time::{Instant, sleep_until, timeout};

use super::deliveries::{DeliveryError, Settled};

/// How long an acknowledgement waits for others.
const DELAY: Duration = Duration::from_millis(50);
/// Time limit for sending an acknowledgement.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// The acknowledgements of a session that have not been sent.
pub(super) struct Acknowledgements<A = Acker> {
    /// By queue: no delivery before the last one is unsettled.
    cumulative: HashMap<Arc<str>, Unsent<A>>,
    /// Deliveries behind an unsettled one of their queue.
    single: Vec<A>,
    /// Deliveries of a queue that may wait: RabbitMQ sends no more than the prefetch count.
    limit: usize,
    /// When they are sent; none if there are no cumulative ones.
    due: Option<Instant>,
}

struct Unsent<A> {
    last: Settled<A>,
    deliveries: usize,
}

impl<A: Clone> Acknowledgements<A> {
    /// For queues with this prefetch count.
    pub(super) fn new(prefetch: u16) -> Self {
        let limit = usize::from(prefetch / 2).max(1);
        Self { cumulative: HashMap::new(), single: Vec::new(), limit, due: None }
    }

    /// Adds a delivery. `first_unsettled` has the tag of the first unsettled delivery of each queue: a
    /// cumulative acknowledgement must not include it.
    pub(super) fn add(&mut self, settled: Settled<A>, first_unsettled: &HashMap<Arc<str>, u64>) {
        if first_unsettled.get(&settled.queue).is_some_and(|first| settled.tag > *first) {
            self.single.push(settled.acker);
            return;
        }
        match self.cumulative.get_mut(&settled.queue) {
            Some(unsent) => {
                unsent.deliveries += 1;
                // What was deferred is settled after later deliveries.
                if settled.tag > unsent.last.tag {
                    unsent.last = settled;
                }
            }
            None => {
                let queue = settled.queue.clone();
                self.cumulative.insert(queue, Unsent { last: settled, deliveries: 1 });
            }
        }
        self.due.get_or_insert_with(|| Instant::now() + DELAY);
    }

    /// Waits until cumulative ones must be sent; for ever if there are none.
    pub(super) async fn are_due(&self) {
        match self.due() {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// When the cumulative ones must be sent; none if there are none.
    fn due(&self) -> Option<Instant> {
        let is_full = self.cumulative.values().any(|unsent| unsent.deliveries >= self.limit);
        if is_full { Some(Instant::now()) } else { self.due }
    }

    /// Takes those that are due: what acknowledges each, and whether it is cumulative. Single ones never
    /// wait: a cumulative one that includes them must not be sent before them.
    fn take_due(&mut self) -> Vec<(A, bool)> {
        if self.due().is_some_and(|due| due <= Instant::now()) {
            return self.take();
        }
        self.single.drain(..).map(|acker| (acker, false)).collect()
    }

    /// Takes all.
    fn take(&mut self) -> Vec<(A, bool)> {
        self.due = None;
        let cumulative = self.cumulative.drain().map(|(_, unsent)| (unsent.last.acker, true));
        cumulative.chain(self.single.drain(..).map(|acker| (acker, false))).collect()
    }
}

impl Acknowledgements {
    /// Sends those that are due.
    pub(super) async fn send_due(&mut self) -> Result<(), DeliveryError> {
        send(self.take_due()).await
    }

    /// Sends all.
    pub(super) async fn send_all(&mut self) -> Result<(), DeliveryError> {
        send(self.take()).await
    }
}

async fn send(acknowledgements: Vec<(Acker, bool)>) -> Result<(), DeliveryError> {
    try_join_all(acknowledgements.into_iter().map(|(acker, multiple)| async move {
        let acknowledged = acker.ack(BasicAckOptions { multiple });
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
