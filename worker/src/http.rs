//! What a worker serves to those who watch it: `/healthz`, `/readyz` and `/metrics`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use shared::{
    metrics::{CONTENT_TYPE, WORKER},
    seldom,
    telemetry::chain,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::standing::Standing;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 32;
/// Time for one request, from its connection to the end of its answer.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const LARGEST_HEAD: usize = 16 * 1024;

/// Takes the address.
///
/// # Errors
/// When it can't be taken.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving health and metrics");
    Ok(listener)
}

/// Serves for as long as the worker runs. A connection has one request: those who watch ask seldom.
pub(crate) async fn serve(listener: TcpListener, standing: Arc<Standing>) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(standing);
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).keep_alive(false).max_buf_size(LARGEST_HEAD);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = connections.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                let reason = chain(&error);
                seldom!(warn, &reason, reason, "no connection can be accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
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

/// The process runs and answers.
async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether the worker takes part in the work or stands by, and what keeps it from that.
async fn readyz(State(standing): State<Arc<Standing>>) -> Response {
    let readiness = standing.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness.body)).into_response()
}

/// What the worker counts and measures.
async fn metrics(State(standing): State<Arc<Standing>>) -> Response {
    // It is measured, too.
    drop(standing.readiness());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], WORKER.text()).into_response()
}
