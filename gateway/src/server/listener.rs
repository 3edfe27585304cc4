//! Accepts connections, up to a maximum number, and lets requests in progress finish when it ends.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use shared::{telemetry::chain, throttled};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::connection::ConnectionServer;

/// The listen backlog. Clients retry a connection beyond it only after a second, and monitors may all
/// connect at once.
const BACKLOG: u32 = 4096;
/// Time for requests in progress to finish after `stop`.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The bound address for clients.
pub(crate) struct Listener {
    listener: TcpListener,
    /// One permit for each further connection.
    connections: Arc<Semaphore>,
}

impl Listener {
    /// Binds the address, for at most so many connections at the same time.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub(crate) fn bind(address: SocketAddr, connections: usize) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Permits binding right after another gateway was stopped.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { listener, connections: Arc::new(Semaphore::new(connections)) })
    }

    /// The address, with the port that the system chose if the settings name none.
    ///
    /// # Errors
    /// When the system does not tell it.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then lets requests in progress finish. `keep_alive` is the limit for idle
    /// connections.
    pub(crate) async fn serve(self, router: Router, keep_alive: Duration, stop: impl Future) {
        let (server, graceful) =
            (ConnectionServer::new(router, keep_alive), GracefulShutdown::new());
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                _ = &mut stop => break,
                accepted = self.accept() => accepted,
            };
            let Some((stream, permit)) = accepted else {
                // Most likely out of file descriptors, which are released when requests end.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let serving = server.serve(stream, &graceful);
            tokio::spawn(async move {
                serving.await;
                drop(permit);
            });
        }
        drop(self.listener);
        if timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
            tracing::warn!("stopped with requests unfinished");
        }
    }

    /// The next connection, once a permit is free; none if the system refuses.
    async fn accept(&self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let permit = self.connections.clone().acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, permit)),
            Err(error) => {
                let reason = chain(&error);
                throttled!(warn, &reason, reason, "no connection can be accepted");
                None
            }
        }
    }
}
