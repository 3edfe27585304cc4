//! What a worker serves to those who watch it: `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use shared::metrics::{CONTENT_TYPE, WORKER};

use crate::standing::Standing;

/// The paths.
pub(crate) fn router(standing: Arc<Standing>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(standing)
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
