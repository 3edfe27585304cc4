//! How long a client may take for a long answer, and how its connection ends when that is over.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

/// The answer that a connection is sending, as far as it has a deadline. The endpoint sets it and the
/// connection keeps it: an endpoint is not asked for more while its client takes nothing.
pub(crate) struct Transfer {
    deadline: watch::Sender<Option<Instant>>,
    /// Whether an answer was not sent to its end.
    cut: AtomicBool,
}

impl Transfer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { deadline: watch::Sender::new(None), cut: AtomicBool::new(false) })
    }

    /// Begins an answer that must be sent within that time.
    pub(crate) fn begin(self: &Arc<Self>, limit: Duration) -> Underway {
        self.deadline.send_replace(Some(Instant::now() + limit));
        Underway { transfer: self.clone(), finished: false }
    }

    /// Waits until an answer is overdue; its connection is to be dropped then.
    pub(crate) async fn overdue(&self) {
        let mut deadline = self.deadline.subscribe();
        loop {
            let at = *deadline.borrow_and_update();
            tokio::select! {
                // The sender is `self`.
                changed = deadline.changed() => if changed.is_err() { return },
                () = until(at) => {
                    self.cut.store(true, Ordering::Relaxed);
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

/// An answer that is being sent. Dropped before it is finished, it cuts its connection.
pub(crate) struct Underway {
    transfer: Arc<Transfer>,
    finished: bool,
}

impl Underway {
    /// All of it was handed over.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if !self.finished {
            self.transfer.cut.store(true, Ordering::Relaxed);
        }
        self.transfer.deadline.send_replace(None);
    }
}

/// A client's connection. One whose answer was cut is reset, not closed: a client of HTTP/1.0 takes the
/// end of a connection for the end of the answer, and the system would go on sending what it has
/// buffered for as long as the client likes.
pub(crate) struct Socket {
    stream: TcpStream,
    transfer: Arc<Transfer>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, transfer: Arc<Transfer>) -> Self {
        Self { stream, transfer }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.transfer.cut.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "a connection can't be reset");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    fn is_cut(transfer: &Transfer) -> bool {
        transfer.cut.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn an_answer_that_takes_too_long_is_overdue() {
        let transfer = Transfer::new();
        let _underway = transfer.begin(SOON);
        timeout(LONG, transfer.overdue()).await.unwrap();
        assert!(is_cut(&transfer));
    }

    #[tokio::test]
    async fn one_that_is_finished_is_not_and_the_next_has_its_own_time() {
        let transfer = Transfer::new();
        let overdue = transfer.overdue();
        tokio::pin!(overdue);
        transfer.begin(SOON).finish();
        timeout(SOON * 5, &mut overdue).await.unwrap_err();
        assert!(!is_cut(&transfer));
        let _next = transfer.begin(SOON);
        timeout(LONG, &mut overdue).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_cut_at_once() {
        let transfer = Transfer::new();
        drop(transfer.begin(LONG));
        assert!(is_cut(&transfer));
    }
}
