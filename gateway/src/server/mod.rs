//! Serves HTTP within limits, and starts all parts of the gateway.

pub mod files;
mod pace;
mod router;
mod socket;

use std::{
    convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration,
};

use axum::{Router, http::Response};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use shared::{
    admin::{self, AdminError},
    database::ConnectOptions,
    paths,
    settings::Settings,
    supervise,
    telemetry::chain,
    throttled,
    topology::{Topology, TopologyError},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    files::FilesError,
    pace::{ConnectionPhase, Pace, Paced},
    router::{Watched, admin_router, router},
    socket::{Socket, reset},
};
use crate::{config::Config, gateway::App, http::transfer::Transfer};

/// Size limit of a request's head, and of the read buffer.
const LARGEST_HEAD: usize = 32 * 1024;
const MOST_HEADERS: usize = 100;
/// Time limit for a client that reads nothing of its response.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// The listen backlog. Clients retry a connection beyond it only after a second, and monitors may all
/// connect at once.
const BACKLOG: u32 = 4096;
/// Time for requests in progress to finish after `stop`.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A gateway with bound addresses.
pub struct Server {
    listener: TcpListener,
    /// For health and metrics, if they have their own address.
    admin: Option<TcpListener>,
    app: Arc<App>,
    database: ConnectOptions,
    connections: usize,
    keep_alive: Duration,
}

/// Why a gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address for clients can't be bound.
    #[error("SDB_BIND: {address} can't be served")]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The address for health and metrics can't be bound.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// There is no room for connections.
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// Binds the addresses; [`Server::run`] serves them.
///
/// # Errors
/// When an address can't be bound, or the limit of open files is too low.
pub async fn build(config: Config, stop: CancellationToken) -> Result<Server, BuildError> {
    config.auth.warn();
    let connections = files::connections(config.limits)?;
    let address = config.bind;
    let refused = |error| BuildError::Address { address, error };
    let listener = listen(address).map_err(refused)?;
    tracing::info!(address = %listener.local_addr().map_err(refused)?, "serving");
    let admin = match config.admin {
        Some(address) => Some(admin::bind(address).await?),
        None => None,
    };
    let Config { database, broker, auth, conflict, inbox_days, limits, .. } = config;
    let app = Arc::new(App::new(auth, &database, broker, limits, conflict, inbox_days, stop));
    let keep_alive = limits.keep_alive;
    Ok(Server { listener, admin, app, database, connections, keep_alive })
}

impl Server {
    /// Serves until the token of [`build`] is cancelled, then lets requests in progress finish.
    ///
    /// # Errors
    /// When the database is not prepared, or its topology is not the settings'.
    pub async fn run(mut self, settings: &Settings) -> Result<(), TopologyError> {
        let app = self.app.clone();
        let admin = self.admin.take().map(|listener| {
            let serving = admin::serve(listener, admin_router(app.clone()));
            AbortOnDropHandle::new(supervise::keep("health and metrics", serving))
        });
        let watched = match admin {
            Some(_) => Watched::Apart,
            None => Watched::Here,
        };
        let database = self.database.clone();
        let linking = async {
            let recorded = Topology::read_once_up(&database, settings).await?;
            let publisher = app.publisher.clone();
            publisher.keep_linked(app.answers.clone(), recorded).await;
            Ok(())
        };
        let upkeep = app.catalogue.keep_fresh();
        let watching = database.servers().clone().watch();
        tokio::select! {
            // The link stays up while requests finish; it ends only with an error.
            ended = linking => return ended,
            () = upkeep => {}
            () = watching => {}
            () = self.serve(watched) => {}
        }
        app.publisher.close().await;
        drop(admin);
        Ok(())
    }

    async fn serve(self, watched: Watched) {
        let app = self.app.clone();
        let service = TowerToHyperService::new(router(self.app, watched));
        let connections = Arc::new(Semaphore::new(self.connections));
        let (http, graceful) = (http(), GracefulShutdown::new());
        loop {
            let accepted = tokio::select! {
                _ = app.stops() => break,
                accepted = accept(&self.listener, &connections) => accepted,
            };
            let Some((stream, place)) = accepted else {
                // Most likely out of file descriptors, which are released when requests end.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (stream, transfer) = (Arc::new(stream), Transfer::new());
            let pace = Pace::new(self.keep_alive);
            let service = at_the_edge(service.clone(), transfer.clone(), pace.clone());
            let socket = limited(stream.clone(), transfer.clone(), pace.clone());
            let connection = graceful.watch(http.serve_connection(TokioIo::new(socket), service));
            tokio::spawn(async move {
                within_limits(connection, &transfer, &pace, &stream).await;
                drop(place);
            });
        }
        drop(self.listener);
        if timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
            tracing::warn!("stopped with requests unfinished");
        }
    }
}

/// HTTP/1.1 with limits for the heads of requests.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // `Pace` has these limits, and distinguishes an idle connection from a slow head.
        .header_read_timeout(None)
        // A client may half-close the connection after its request, and wait for the answer.
        .half_close(true)
        .max_buf_size(LARGEST_HEAD)
        // Without it a head that arrives in one piece may exceed the buffer size.
        .max_header_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS);
    http
}

/// Serves a connection until it ends, or exceeds a time limit, or its client resets it.
async fn within_limits(
    connection: impl Future<Output = hyper::Result<()>>,
    transfer: &Transfer,
    pace: &Pace,
    stream: &TcpStream,
) {
    tokio::select! {
        biased;
        ended = connection => if let Err(error) = ended {
            tracing::debug!(reason = chain(&error), "a connection ended early");
        },
        () = transfer.overdue() => tracing::debug!("an answer took too long"),
        phase = pace.overdue() => match phase {
            ConnectionPhase::Idle => {}
            ConnectionPhase::Head => tracing::debug!("a request's head took too long"),
            ConnectionPhase::Answer | ConnectionPhase::Send => {
                tracing::debug!("an answer took too long");
            }
        },
        () = reset(stream) => tracing::debug!("a client reset its connection"),
    }
}

/// Canonicalizes the path of each request, and passes the connection's `Transfer` to its endpoint.
fn at_the_edge(
    service: TowerToHyperService<Router>,
    transfer: Arc<Transfer>,
    pace: Arc<Pace>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Paced>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Paced>, Infallible>> + Send,
> {
    service_fn(move |mut request: Request<Incoming>| {
        pace.asked();
        paths::canonicalize(request.uri_mut());
        request.extensions_mut().insert(transfer.clone());
        let (answering, pace) = (service.call(request), pace.clone());
        async move { Ok(answering.await?.map(|body| Paced::new(body, pace))) }
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Permits binding right after another gateway was stopped.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The next connection, once a permit is free; none if the system refuses.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = connections.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            let reason = chain(&error);
            throttled!(warn, &reason, reason, "no connection can be accepted");
            None
        }
    }
}

/// The connection with its limits.
fn limited(
    stream: Arc<TcpStream>,
    transfer: Arc<Transfer>,
    pace: Arc<Pace>,
) -> Pin<Box<TimeoutStream<Socket>>> {
    // Responses are small, and clients wait for them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(reason = chain(&error), "a connection ended at once");
    }
    // A client that reads nothing for that long is treated as gone.
    let mut stream = TimeoutStream::new(Socket::new(stream, transfer, pace));
    stream.set_write_timeout(Some(WRITE_LIMIT));
    Box::pin(stream)
}
