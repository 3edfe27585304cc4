//! `GET /healthz` and `GET /readyz`: is the process alive, and should requests come here.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{app::App, broker::BrokerState};

const DATABASE_LIMIT: Duration = Duration::from_secs(1);

#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "status": "ok" }))]
struct Health {
    status: &'static str,
}

/// The process lives
#[utoipa::path(
    get,
    path = "/healthz",
    responses((status = 200, description = "It does", body = Health)),
)]
pub(crate) async fn healthz() -> Response {
    Json(Health { status: "ok" }).into_response()
}

/// What the gateway has and what it lacks.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "status": "ready", "reasons": [], "catalogue": { "version": 1, "components": 20 },
}))]
struct Readiness {
    status: Status,
    /// What is missing.
    reasons: Vec<&'static str>,
    /// The copy of the catalogue; null before it was read.
    catalogue: Option<CatalogueState>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ready,
    Degraded,
    #[serde(rename = "not ready")]
    NotReady,
}

#[derive(Serialize, ToSchema)]
struct CatalogueState {
    /// Moves with every change of the catalogue.
    version: i64,
    components: usize,
}

/// Whether requests should come here
///
/// Without RabbitMQ lists are still shown, and without PostgreSQL updates are still taken, so that
/// either alone keeps the gateway ready.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "They should; `degraded` says that something is missing",
            body = Readiness),
        (status = 503, description = "They should not, or no server answers", body = Readiness,
            example = json!({
                "status": "not ready",
                "reasons": ["the catalogue was not read yet"],
                "catalogue": null,
            })),
    ),
)]
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
        (true, true) => Status::Ready,
        (true, false) => Status::Degraded,
        (false, _) => Status::NotReady,
    };
    let catalogue = catalogue.map(|catalogue| CatalogueState {
        version: catalogue.version,
        components: catalogue.len(),
    });
    let body = Readiness { status, reasons, catalogue };
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}
