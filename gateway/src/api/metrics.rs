//! `GET /metrics`: the metrics of this gateway.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use shared::telemetry::metrics::{COMMON, CONTENT_TYPE, GATEWAY, Server};

use super::health::Readiness;
use crate::{gateway::App, ingest::publisher::BrokerState};

/// Get the metrics
///
/// The current values, in the text format of Prometheus. If `SDB_ADMIN_ADDRESS` is set, they are served only at
/// that address.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "The metrics", body = String,
        content_type = CONTENT_TYPE)),
)]
pub(crate) async fn get(State(app): State<Arc<App>>) -> Response {
    let readiness = Readiness::of(&app).await;
    COMMON.ready.set((readiness.status() == StatusCode::OK).into());
    GATEWAY.reachable.of(Server::Postgresql).set(readiness.database.into());
    let broker = matches!(readiness.broker, BrokerState::Ready | BrokerState::Incomplete);
    GATEWAY.reachable.of(Server::Rabbitmq).set(broker.into());
    if let Some(ahead) = app.clock.machine_is_ahead() {
        GATEWAY.clock_ahead.set(ahead as f64 / 1e6);
    }
    let in_flight = app.most_in_flight - app.in_flight.available_permits();
    GATEWAY.in_flight.set(in_flight as i64);
    GATEWAY.in_flight_limit.set(app.most_in_flight as i64);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], GATEWAY.text()).into_response()
}
