//! The time limit for a client to receive a streamed response.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The response that a connection is sending, if it has a deadline. The endpoint sets the deadline and
/// the connection enforces it: an endpoint is not polled while its client reads nothing.
pub(crate) struct Transfer {
    deadline: watch::Sender<Option<Instant>>,
    /// Whether a response is unfinished.
    cut: AtomicBool,
}

impl Transfer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { deadline: watch::Sender::new(None), cut: AtomicBool::new(false) })
    }

    /// Starts a response that must be sent within that time.
    pub(crate) fn begin(self: &Arc<Self>, limit: Duration) -> ActiveTransfer {
        self.deadline.send_replace(Some(Instant::now() + limit));
        ActiveTransfer { transfer: self.clone(), finished: false }
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether a response is unfinished.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Waits until a response is overdue; its connection must be dropped then.
    pub(crate) async fn overdue(&self) {
        let mut deadline = self.deadline.subscribe();
        loop {
            let at = *deadline.borrow_and_update();
            tokio::select! {
                // The sender is `self`.
                changed = deadline.changed() => if changed.is_err() { return },
                () = until(at) => {
                    self.cut();
                    return;
                }
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A response that is being sent. If it is dropped before it is finished, its connection is cut.
pub(crate) struct ActiveTransfer {
    transfer: Arc<Transfer>,
    finished: bool,
}

impl ActiveTransfer {
    /// The response is complete.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for ActiveTransfer {
    fn drop(&mut self) {
        if !self.finished {
            self.transfer.cut();
        }
        self.transfer.deadline.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_answer_that_takes_too_long_is_overdue() {
        let transfer = Transfer::new();
        let _active = transfer.begin(SOON);
        timeout(LONG, transfer.overdue()).await.unwrap();
        assert!(transfer.is_cut());
    }

    #[tokio::test]
    async fn one_that_is_finished_is_not_and_the_next_has_its_own_time() {
        let transfer = Transfer::new();
        let overdue = transfer.overdue();
        tokio::pin!(overdue);
        transfer.begin(SOON).finish();
        timeout(SOON * 5, &mut overdue).await.unwrap_err();
        assert!(!transfer.is_cut());
        let _next = transfer.begin(SOON);
        timeout(LONG, &mut overdue).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_cut_at_once() {
        let transfer = Transfer::new();
        drop(transfer.begin(LONG));
        assert!(transfer.is_cut());
    }
}
