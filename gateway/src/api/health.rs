//! `GET /healthz` and `GET /readyz`: liveness and readiness.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::broker::HostsReport;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{gateway::App, ingest::publisher::BrokerState, store::catalogue::Catalogue};

/// Well below one second, the shortest timeout of probes and scrapers: without PostgreSQL the gateway is
/// still alive.
const DATABASE_LIMIT: Duration = Duration::from_millis(500);

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
    "rabbitmq": { "host": "rabbitmq:5672", "unavailable": [] },
}))]
struct Ready {
    status: Status,
    /// What is missing.
    reasons: Vec<String>,
    /// The copy of the catalogue; null before it was read.
    catalogue: Option<CatalogueState>,
    rabbitmq: RabbitMqState,
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

#[derive(Serialize, ToSchema)]
struct RabbitMqState {
    /// The node that is in use, with its port; null without a connection.
    host: Option<String>,
    /// The nodes that could not be used when they were last tried, each with the reason.
    unavailable: Vec<String>,
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
            body = Ready),
        (status = 503, description = "They should not, or no server answers", body = Ready,
            example = json!({
                "status": "not ready",
                "reasons": ["the catalogue was not read yet"],
                "catalogue": null,
                "rabbitmq": { "host": null, "unavailable": [] },
            })),
    ),
)]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let readiness = Readiness::of(&app).await;
    (readiness.status(), Json(readiness.body())).into_response()
}

/// The readiness of the gateway at this moment.
pub(crate) struct Readiness {
    stopping: bool,
    catalogue: Option<Arc<Catalogue>>,
    pub(crate) broker: BrokerState,
    hosts: HostsReport,
    /// Whether PostgreSQL answers.
    pub(crate) database: bool,
    /// What is wrong with the clock of this machine.
    clock: Option<String>,
}

impl Readiness {
    pub(crate) async fn of(app: &App) -> Self {
        // Concurrent requests share one query, on its own connection, so that no update waits for it.
        let database = matches!(timeout(DATABASE_LIMIT, app.versions.now()).await, Ok(Ok(_)));
        Self {
            stopping: app.stop.is_cancelled(),
            catalogue: app.catalogue.get(),
            broker: app.publisher.state(),
            hosts: app.publisher.hosts(),
            database,
            clock: app.clock.fault(),
        }
    }

    /// Without RabbitMQ lists are still shown, and without PostgreSQL updates are still taken, so that
    /// either alone keeps the gateway ready. So does a clock that is off, as updates are not stamped by
    /// it: it may be PostgreSQL's that is wrong, and then all gateways would go at once.
    pub(crate) fn status(&self) -> StatusCode {
        let serves =
            self.database || matches!(self.broker, BrokerState::Ready | BrokerState::Incomplete);
        if self.catalogue.is_some() && !self.stopping && serves {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.stopping {
            reasons.push("the gateway is stopping");
        }
        if self.catalogue.is_none() {
            reasons.push("the catalogue was not read yet");
        }
        match self.broker {
            BrokerState::Ready => {}
            BrokerState::Incomplete => {
                reasons.push("a queue is missing in RabbitMQ: its updates get 503");
            }
            BrokerState::Blocked => {
                reasons.push("RabbitMQ is short of memory or disk: updates get 503")
            }
            BrokerState::Changing => {
                reasons.push("the number of partitions is being changed: updates get 503")
            }
            BrokerState::Absent => reasons.push("RabbitMQ can't be reached: updates get 503"),
        }
        if !self.database {
            reasons.push("PostgreSQL can't be reached: lists get 503, updates 202");
        }
        reasons.into_iter().map(str::to_owned).chain(self.clock.clone()).collect()
    }

    fn body(&self) -> Ready {
        let reasons = self.reasons();
        let status = match (self.status() == StatusCode::OK, reasons.is_empty()) {
            (true, true) => Status::Ready,
            (true, false) => Status::Degraded,
            (false, _) => Status::NotReady,
        };
        let catalogue = self.catalogue.as_ref().map(|catalogue| CatalogueState {
            version: catalogue.version,
            components: catalogue.len(),
        });
        let HostsReport { used, unavailable } = self.hosts.clone();
        let rabbitmq = RabbitMqState { host: used, unavailable };
        Ready { status, reasons, catalogue, rabbitmq }
    }
}
