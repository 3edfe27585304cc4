//! The admin address: `/healthz`, `/readyz` and `/metrics` on a separate listener, so that monitoring
//! gets an answer regardless of the load of clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    http::paths,
    settings::{Settings, SettingsError, invalid},
    telemetry::chain,
    throttled,
};

const NAME: &str = "SDB_ADMIN_ADDRESS";
/// Maximum number of connections; further ones wait to be accepted.
const CONNECTIONS: usize = 32;
/// Time for one request, from its connection to the end of its answer.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The address can't be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "{NAME}: {address} can't be served; each gateway and each worker of a machine needs one of its own"
)]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    error: std::io::Error,
}

/// Address and port from the settings, if they are set.
///
/// # Errors
/// When it is invalid; the message names the expected form.
pub fn address(settings: &Settings) -> Result<Option<SocketAddr>, SettingsError> {
    let refused = |text: &str| invalid(NAME, text, "an address and port such as `127.0.0.1:9090`");
    settings.text(NAME).map(|text| text.parse().map_err(|_| refused(&text))).transpose()
}

/// Binds the address.
///
/// # Errors
/// When it can't be bound.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    let refused = |error| AdminError { address, error };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    tracing::info!(%address, "serving health and metrics");
    Ok(listener)
}

/// Serves while the process runs. A connection has one request, because monitoring requests are rare.
pub async fn serve(listener: TcpListener, router: Router) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    // A client may half-close the connection after its request, and wait for the answer.
    http.timer(TokioTimer::new())
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_header_size(MAX_HEAD_BYTES);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = connections.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                let reason = chain(&error);
                throttled!(warn, &reason, reason, "no connection can be accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = service.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            paths::canonicalize(request.uri_mut());
            service.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            match timeout(CONNECTION_LIMIT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(reason = chain(&error), "a connection ended early");
                }
                Err(_) => tracing::debug!("a connection took too long"),
            }
            drop(place);
        });
    }
}
