//! `GET /healthz` and `GET /readyz`: is the process alive, and should requests come here.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::time::timeout;

use crate::{app::App, broker::BrokerState};

const DATABASE_LIMIT: Duration = Duration::from_secs(1);

/// The process runs and answers.
pub(crate) async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether requests should come here, and what is missing. Without RabbitMQ lists are still shown,
/// and without PostgreSQL updates are still taken, so that either alone keeps the gateway ready.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let catalogue = app.catalogue.get();
    let broker = app.publisher.state();
    let ping = sqlx::query("SELECT 1").execute(&app.answers);
    let database = matches!(timeout(DATABASE_LIMIT, ping).await, Ok(Ok(_)));

    let mut reasons = Vec::new();
    if app.stop.is_cancelled() {
        reasons.push("the gateway is stopping");
    }
    if catalogue.is_none() {
        reasons.push("the catalogue was not read yet");
    }
    match broker {
        BrokerState::Ready => {}
        BrokerState::Blocked => {
            reasons.push("RabbitMQ is short of memory or disk: updates get 503")
        }
        BrokerState::Changing => {
            reasons.push("the number of partitions is being changed: updates get 503")
        }
        BrokerState::Absent => reasons.push("RabbitMQ can't be reached: updates get 503"),
    }
    if !database {
        reasons.push("PostgreSQL can't be reached: lists get 503, updates 202");
    }
    let ready = catalogue.is_some()
        && !app.stop.is_cancelled()
        && (database || broker == BrokerState::Ready);
    let status = match (ready, reasons.is_empty()) {
        (true, true) => "ready",
        (true, false) => "degraded",
        (false, _) => "not ready",
    };
    let catalogue = catalogue
        .map(|catalogue| json!({ "version": catalogue.version, "components": catalogue.len() }));
    let body = json!({ "status": status, "reasons": reasons, "catalogue": catalogue });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}
