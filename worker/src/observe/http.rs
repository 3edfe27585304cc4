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

use super::readiness::Readiness;

/// The paths.
pub(crate) fn router(readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(readiness)
}

/// The process runs and answers.
async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether the worker takes part in the work or stands by, and what keeps it from that.
async fn readyz(State(readiness): State<Arc<Readiness>>) -> Response {
    let report = readiness.report();
    let code = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(report.body)).into_response()
}

/// What the worker counts and measures.
async fn metrics(State(readiness): State<Arc<Readiness>>) -> Response {
    // It is measured, too.
    drop(readiness.report());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], WORKER.text()).into_response()
}
