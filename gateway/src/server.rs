//! Serves HTTP within limits, and ties the gateway together.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use shared::{
    broker::Broker,
    database::ConnectOptions,
    seldom,
    settings::Settings,
    telemetry::chain,
    topology::{Topology, TopologyError},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, router},
    config::Config,
};

/// Bytes of a request's head, and of what is buffered of its body.
const LARGEST_HEAD: usize = 32 * 1024;
const MOST_HEADERS: usize = 100;
/// Time for a request's head, counted from when the connection is idle: an idle one is closed then.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Time that a client may take nothing of its answer.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted. One that comes beyond them is tried again by the client's
/// system, a whole second later, and monitors connect all at once.
const BACKLOG: u32 = 4096;
/// Time that requests under way have to finish after `stop`.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A gateway that has its address.
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
    database: ConnectOptions,
    broker: Broker,
    connections: usize,
}

/// Takes the address; [`Server::run`] serves it.
///
/// # Errors
/// When the address can't be taken.
pub async fn build(config: Config, stop: CancellationToken) -> std::io::Result<Server> {
    config.auth.warn_of_short_keys();
    let listener = listen(config.bind)?;
    let Config { database, broker, auth, conflict, inbox_days, limits, .. } = config;
    let app = App::new(auth, &database, limits, conflict, inbox_days, stop);
    let (app, connections) = (Arc::new(app), limits.connections);
    Ok(Server { listener, app, database, broker, connections })
}

impl Server {
    /// The address that is served.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the token of [`build`] is cancelled, then lets the requests under way finish.
    ///
    /// # Errors
    /// When the database is not prepared, or its topology is not the settings'.
    pub async fn run(self, settings: &Settings) -> Result<(), TopologyError> {
        let app = self.app.clone();
        let (broker, database) = (self.broker.clone(), self.database.clone());
        let linking = async {
            let recorded = Topology::read_once_up(&database, settings).await?;
            let publisher = app.publisher.clone();
            publisher.keep_linked(broker, app.answers.clone(), recorded).await;
            Ok(())
        };
        let upkeep = app.catalogue.keep_fresh();
        let broker = self.broker.clone();
        tokio::select! {
            // The link stays up while requests finish; it ends only with an error.
            ended = linking => return ended,
            () = upkeep => {}
            () = self.serve() => {}
        }
        app.publisher.close(&broker).await;
        Ok(())
    }

    async fn serve(self) {
        let stop = self.app.stop.clone();
        let service = TowerToHyperService::new(router(self.app));
        let connections = Arc::new(Semaphore::new(self.connections));
        let graceful = GracefulShutdown::new();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(LARGEST_HEAD)
            .max_headers(MOST_HEADERS);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &connections) => accepted,
            };
            let Some((stream, place)) = accepted else {
                // Out of file descriptors, most likely: those in use end with their requests.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let connection =
                graceful.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(reason = chain(&error), "a connection ended early");
                }
                drop(place);
            });
        }
        drop(self.listener);
        if timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
            tracing::warn!("stopped with requests unfinished");
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A gateway that was just stopped keeps nobody from the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The next connection, once there is a place for it; none when the system refuses.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(Pin<Box<TimeoutStream<TcpStream>>>, OwnedSemaphorePermit)> {
    let place = connections.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and waited for.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(reason = chain(&error), "a connection ended at once");
            }
            // A reader that takes nothing for so long is gone, or might as well be.
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_LIMIT));
            Some((Box::pin(stream), place))
        }
        Err(error) => {
            let reason = chain(&error);
            seldom!(warn, &reason, reason, "no connection can be accepted");
            None
        }
    }
}
