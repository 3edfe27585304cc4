//! Serves one connection of a client: HTTP/1.1 within limits of size and time.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

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
use shared::{http::paths, telemetry::chain};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

use super::{
    connection_timeouts::{ConnectionPhase, ConnectionTimeouts, TimedBody},
    socket::{Socket, reset},
};
use crate::http::transfer::Transfer;

/// Maximum size of a request's head, and size of the read buffer, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 100;
/// Time limit for a client that reads nothing of its response.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// What all connections have in common.
pub(crate) struct ConnectionServer {
    http: http1::Builder,
    service: TowerToHyperService<Router>,
    keep_alive: Duration,
}

impl ConnectionServer {
    pub(crate) fn new(router: Router, keep_alive: Duration) -> Self {
        Self { http: http(), service: TowerToHyperService::new(router), keep_alive }
    }

    /// Serves a connection until it ends, or exceeds a time limit, or its client resets it. After
    /// `graceful` is shut down, it ends with the request in progress.
    pub(crate) fn serve(
        &self,
        stream: TcpStream,
        graceful: &GracefulShutdown,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (stream, transfer) = (Arc::new(stream), Transfer::new());
        let timeouts = ConnectionTimeouts::new(self.keep_alive);
        let service = at_the_edge(self.service.clone(), transfer.clone(), timeouts.clone());
        let socket = limited(stream.clone(), transfer.clone(), timeouts.clone());
        let connection = graceful.watch(self.http.serve_connection(TokioIo::new(socket), service));
        async move { within_limits(connection, &transfer, &timeouts, &stream).await }
    }
}

/// HTTP/1.1 with limits for the heads of requests.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // `ConnectionTimeouts` has these limits, and distinguishes an idle connection from a slow head.
        .header_read_timeout(None)
        // A client may half-close the connection after its request, and wait for the answer.
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES)
        // Without it a head that arrives in one piece may exceed the buffer size.
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    http
}

/// Serves a connection until it ends, or exceeds a time limit, or its client resets it.
async fn within_limits(
    connection: impl Future<Output = hyper::Result<()>>,
    transfer: &Transfer,
    timeouts: &ConnectionTimeouts,
    stream: &TcpStream,
) {
    tokio::select! {
        biased;
        ended = connection => if let Err(error) = ended {
            tracing::debug!(reason = chain(&error), "a connection ended early");
        },
        () = transfer.overdue() => tracing::debug!("an answer took too long"),
        phase = timeouts.overdue() => match phase {
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
    timeouts: Arc<ConnectionTimeouts>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<TimedBody>,
    Error = Infallible,
    Future: Future<Output = Result<Response<TimedBody>, Infallible>> + Send,
> {
    service_fn(move |mut request: Request<Incoming>| {
        timeouts.asked();
        paths::canonicalize(request.uri_mut());
        request.extensions_mut().insert(transfer.clone());
        let (answering, timeouts) = (service.call(request), timeouts.clone());
        async move { Ok(answering.await?.map(|body| TimedBody::new(body, timeouts))) }
    })
}

/// The connection with its limits.
fn limited(
    stream: Arc<TcpStream>,
    transfer: Arc<Transfer>,
    timeouts: Arc<ConnectionTimeouts>,
) -> Pin<Box<TimeoutStream<Socket>>> {
    // Responses are small, and clients wait for them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(reason = chain(&error), "a connection ended at once");
    }
    // A client that reads nothing for that long is treated as gone.
    let mut stream = TimeoutStream::new(Socket::new(stream, transfer, timeouts));
    stream.set_write_timeout(Some(WRITE_LIMIT));
    Box::pin(stream)
}
