//! Time limits of a connection: for its next request, for the rest of a request's head, for its client to
//! read the end of a response.
//!
//! The phase changes with every request, so it is one atomic number that a timer checks periodically. No
//! limit is shorter than the interval of the timer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// Time limit from the first byte of a request's head to its last.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Time limit from a request's head until its response is written: longer than the separate limits of
/// requests and of streamed lists.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// Time limit for the client to read what is still buffered then: at most a list in memory.
const SEND_LIMIT: Duration = Duration::from_secs(60);

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionPhase {
    /// For a request.
    Idle,
    /// For the rest of a request's head.
    Head,
    /// For the request's body and for its answer.
    Answer,
    /// For its client to read the end of the response.
    Send,
}

const PHASES: [ConnectionPhase; 4] =
    [ConnectionPhase::Idle, ConnectionPhase::Head, ConnectionPhase::Answer, ConnectionPhase::Send];

/// The phase of one connection, and since when.
pub(crate) struct ConnectionTimeouts {
    limits: [Duration; 4],
    began: Instant,
    /// Milliseconds since the start, times four, plus the index of the phase in [`PHASES`].
    phase: AtomicU64,
}

impl ConnectionTimeouts {
    /// For a new connection. `idle` is the limit for idle connections.
    pub(crate) fn new(keep_alive: Duration) -> Arc<Self> {
        Self::with_limits([keep_alive, HEAD_LIMIT, ANSWER_LIMIT, SEND_LIMIT])
    }

    fn with_limits(limits: [Duration; 4]) -> Arc<Self> {
        Arc::new(Self { limits, began: Instant::now(), phase: AtomicU64::new(0) })
    }

    /// Bytes were received.
    pub(crate) fn received(&self) {
        if self.now().0 == ConnectionPhase::Idle {
            self.enter(ConnectionPhase::Head);
        }
    }

    /// All bytes written so far were passed to the system.
    pub(crate) fn flushed(&self) {
        if self.now().0 == ConnectionPhase::Send {
            self.enter(ConnectionPhase::Idle);
        }
    }

    /// A request's head is complete.
    pub(crate) fn asked(&self) {
        self.enter(ConnectionPhase::Answer);
    }

    /// Whether a response is unfinished.
    pub(crate) fn is_answering(&self) -> bool {
        matches!(self.now().0, ConnectionPhase::Answer | ConnectionPhase::Send)
    }

    /// Waits until a phase exceeds its limit; returns which one.
    pub(crate) async fn overdue(&self) -> ConnectionPhase {
        let between = self.limits.into_iter().min().unwrap_or_default();
        loop {
            let now = Instant::now();
            let (phase, since) = self.now();
            let deadline = since + self.limits[phase as usize];
            if deadline <= now {
                return phase;
            }
            // A phase that begins meanwhile lasts at least until then.
            sleep_until(deadline.min(now + between)).await;
        }
    }

    fn enter(&self, phase: ConnectionPhase) {
        let since = self.began.elapsed().as_millis() as u64;
        self.phase.store(since * 4 + phase as u64, Ordering::Relaxed);
    }

    fn now(&self) -> (ConnectionPhase, Instant) {
        let phase = self.phase.load(Ordering::Relaxed);
        (PHASES[(phase % 4) as usize], self.began + Duration::from_millis(phase / 4))
    }
}

/// The body of a response, which reports to the `ConnectionTimeouts` of its connection when it is complete.
pub(crate) struct TimedBody {
    body: Body,
    timeouts: Arc<ConnectionTimeouts>,
}

impl TimedBody {
    pub(crate) const fn new(body: Body, timeouts: Arc<ConnectionTimeouts>) -> Self {
        Self { body, timeouts }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        self.timeouts.enter(ConnectionPhase::Send);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(40);
    const LONG: Duration = Duration::from_secs(60);

    async fn overdue(timeouts: &ConnectionTimeouts) -> ConnectionPhase {
        timeout(LONG, timeouts.overdue()).await.unwrap()
    }

    #[tokio::test]
    async fn each_phase_has_its_limit() {
        let timeouts = ConnectionTimeouts::with_limits([SOON, LONG, LONG, LONG]);
        assert_eq!(overdue(&timeouts).await, ConnectionPhase::Idle);
        let timeouts = ConnectionTimeouts::with_limits([LONG, SOON, LONG, LONG]);
        timeouts.received();
        assert_eq!(overdue(&timeouts).await, ConnectionPhase::Head);
        let timeouts = ConnectionTimeouts::with_limits([LONG, LONG, SOON, LONG]);
        timeouts.received();
        timeouts.asked();
        assert_eq!(overdue(&timeouts).await, ConnectionPhase::Answer);
        let timeouts = ConnectionTimeouts::with_limits([LONG, LONG, LONG, SOON]);
        timeouts.received();
        timeouts.asked();
        drop(TimedBody::new(Body::empty(), timeouts.clone()));
        assert_eq!(overdue(&timeouts).await, ConnectionPhase::Send);
    }

    #[tokio::test]
    async fn a_connection_that_is_used_is_kept() {
        let timeouts = ConnectionTimeouts::with_limits([SOON * 2, SOON * 2, SOON * 2, SOON * 2]);
        let using = async {
            for _ in 0..4 {
                tokio::time::sleep(SOON).await;
                timeouts.received();
                timeouts.asked();
                // While a response is written, a flush covers only a part of it.
                timeouts.flushed();
                assert_eq!(timeouts.now().0, ConnectionPhase::Answer);
                drop(TimedBody::new(Body::empty(), timeouts.clone()));
                timeouts.flushed();
                assert_eq!(timeouts.now().0, ConnectionPhase::Idle);
            }
        };
        tokio::select! {
            biased;
            () = using => {}
            phase = timeouts.overdue() => panic!("{phase:?} is overdue"),
        }
        assert_eq!(overdue(&timeouts).await, ConnectionPhase::Idle);
    }

    #[tokio::test]
    async fn a_head_that_comes_slowly_is_not_renewed() {
        let timeouts = ConnectionTimeouts::with_limits([LONG, SOON * 2, LONG, LONG]);
        let slowly = async {
            loop {
                timeouts.received();
                tokio::time::sleep(SOON / 4).await;
            }
        };
        tokio::select! {
            () = slowly => {}
            phase = overdue(&timeouts) => assert_eq!(phase, ConnectionPhase::Head),
        }
    }
}
