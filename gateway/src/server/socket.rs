//! A client's connection: reading, writing, closing, and detecting that the client is gone.
//!
//! A client may half-close the connection after its request and still wait for the response, so that the
//! end of input does not mean that it is gone. A client that is gone causes a reset, at the latest when
//! something is sent to it.

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

use super::connection_timeouts::ConnectionTimeouts;
use crate::http::transfer::Transfer;

/// A client's connection. If it ends before its response is complete, it is reset instead of closed: an
/// HTTP/1.0 client would take the end of the connection for the end of the response, and the system would
/// keep sending buffered data for as long as the client wants.
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    transfer: Arc<Transfer>,
    timeouts: Arc<ConnectionTimeouts>,
}

impl Socket {
    pub(crate) const fn new(
        stream: Arc<TcpStream>,
        transfer: Arc<Transfer>,
        timeouts: Arc<ConnectionTimeouts>,
    ) -> Self {
        Self { stream, transfer, timeouts }
    }
}

/// Waits until the connection is reset by its client, or by the system. While a response is being
/// computed, no read or write would notice it.
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
        if (self.transfer.is_cut() || self.timeouts.is_answering())
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "a connection can't be reset");
        }
    }
}

/// Tries until it would block, then waits.
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
            self.timeouts.received();
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
        // Nothing is buffered here; it is called after everything is written.
        self.timeouts.flushed();
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
