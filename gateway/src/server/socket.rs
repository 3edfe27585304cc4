//! A client's connection: how it is read, written and ended, and how it is seen that the client is gone.
//!
//! A client that has sent its request may close that direction, and still waits for the answer: the end of
//! what it sends says nothing about it. A client that is gone for good shows itself by a reset, at the
//! latest when something is sent to it.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::pace::Pace;
use crate::http::transfer::Transfer;

/// A client's connection. One that ends before its answer does is reset, not closed: a client of HTTP/1.0
/// takes the end of a connection for the end of the answer, and the system would go on sending what it
/// has buffered for as long as the client likes.
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    transfer: Arc<Transfer>,
    pace: Arc<Pace>,
}

impl Socket {
    pub(crate) const fn new(
        stream: Arc<TcpStream>,
        transfer: Arc<Transfer>,
        pace: Arc<Pace>,
    ) -> Self {
        Self { stream, transfer, pace }
    }
}

/// Waits until the connection is reset by its client, or by the system in its place. While an answer is
/// being made, nothing is read or written that would tell.
pub(crate) async fn reset(stream: &TcpStream) {
    loop {
        match stream.ready(Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if (self.transfer.is_cut() || self.pace.is_answering())
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "a connection can't be reset");
        }
    }
}

/// Tries until it would block, and waits then.
fn attempt(
    mut ready: impl FnMut() -> Poll<io::Result<()>>,
    mut attempt: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(ready())?;
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &self.stream;
        let read =
            ready!(attempt(|| stream.poll_read_ready(context), || stream.try_read_buf(buffer)))?;
        if read > 0 {
            self.pace.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &self.stream;
        attempt(|| stream.poll_write_ready(context), || stream.try_write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is buffered here, and it is asked for when all else is written.
        self.pace.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = &self.stream;
        attempt(|| stream.poll_write_ready(context), || stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
