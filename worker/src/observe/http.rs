//! A worker's HTTP endpoints: `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use shared::telemetry::metrics::{COMMON, CONTENT_TYPE, WORKER};

use super::readiness::Readiness;

/// All paths.
pub(crate) fn router(readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(readiness)
}

/// Liveness: the process is running and answers.
async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Readiness: whether the worker consumes partitions or stands by, and if not, why.
async fn readyz(State(readiness): State<Arc<Readiness>>) -> Response {
    let report = readiness.report();
    let code = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(report.body)).into_response()
}

/// The metrics of the worker.
async fn metrics(State(readiness): State<Arc<Readiness>>) -> Response {
    COMMON.ready.set(readiness.is_ready().into());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], WORKER.text()).into_response()
}
