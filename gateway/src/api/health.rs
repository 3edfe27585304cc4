//! `GET /healthz` and `GET /readyz`: liveness and readiness.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    database::Servers,
    http::{
        health::ReadyStatus,
        servers_report::{self, ServersReport},
    },
};
use tokio::time::timeout;
use utoipa::{ToSchema, openapi::Object};

use crate::{
    gateway::App,
    http::schema,
    ingest::publisher::BrokerState,
    store::{catalogue::Catalogue, version::DependsOn},
};

/// Well below one second, the shortest timeout of probes and scrapers: without PostgreSQL the gateway is
/// still alive.
const DATABASE_LIMIT: Duration = Duration::from_millis(500);

/// That the process is alive.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "status": "ok" }))]
struct Health {
    /// Always `ok`.
    status: &'static str,
}

/// Check liveness
#[utoipa::path(
    get,
    path = "/healthz",
    responses((status = 200, description = "The process is alive", body = Health)),
)]
pub(crate) async fn healthz() -> Response {
    Json(Health { status: "ok" }).into_response()
}

/// Whether the gateway is ready, and what is missing.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "status": "ready", "reasons": [], "catalogue": { "version": 1, "components": 20 },
    "rabbitmq": { "server": "rabbitmq-1.example:5672", "not_used": [] },
    "database": {
        "server": "db-1.example:5432",
        "not_used": [{ "server": "db-2.example:5432", "reason": "it is a standby" }],
    },
}))]
struct Ready {
    /// Requests can be sent to a gateway that is `ready`, or `degraded`: ready although something is missing.
    #[schema(schema_with = ready_status)]
    status: ReadyStatus,
    /// What is missing, for people; empty if nothing is.
    reasons: Vec<String>,
    /// The copy of the catalogue. Null until it is read for the first time.
    catalogue: Option<CatalogueState>,
    /// The nodes of RabbitMQ: others are listed if they failed when they were last tried.
    rabbitmq: ServersInUse,
    /// The servers of PostgreSQL.
    database: ServersInUse,
}

fn ready_status() -> Object {
    schema::one_of(["ready", "degraded", "not ready"])
}

/// Which server of several is used, and why others are not.
#[derive(Serialize, ToSchema)]
struct ServersInUse {
    /// Its host and port; null if none can be used.
    server: Option<String>,
    /// Others that `SDB_AMQP_URI` or `SDB_DATABASE_URI` names.
    not_used: Vec<ServerNotUsed>,
}

#[derive(Serialize, ToSchema)]
struct ServerNotUsed {
    server: String,
    reason: String,
}

impl From<ServersReport> for ServersInUse {
    fn from(ServersReport { server, not_used }: ServersReport) -> Self {
        let not_used =
            not_used.into_iter().map(|servers_report::ServerNotUsed { server, reason }| {
                ServerNotUsed { server, reason }
            });
        Self { server, not_used: not_used.collect() }
    }
}

/// The gateway's copy of the catalogue.
#[derive(Serialize, ToSchema)]
struct CatalogueState {
    /// Increases with every change of the catalogue.
    version: i64,
    /// The number of components.
    components: usize,
}

/// Check readiness
///
/// Without RabbitMQ lists are still answered, and without PostgreSQL updates are still accepted, so that either
/// of the two keeps the gateway ready.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "Requests can be sent here; `degraded` says that something is missing",
            body = Ready),
        (status = 503, description = "Requests should not be sent here", body = Ready,
            example = json!({
                "status": "not ready",
                "reasons": ["the catalogue was not read yet"],
                "catalogue": null,
                "rabbitmq": { "server": null, "not_used": [] },
                "database": { "server": "db-1.example:5432", "not_used": [] },
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
    nodes: ServersReport,
    /// Whether PostgreSQL answers.
    pub(crate) database: bool,
    /// What is wrong with the clock of this machine.
    clock: Option<String>,
    servers: Servers,
}

impl Readiness {
    pub(crate) async fn of(app: &App) -> Self {
        // Concurrent requests share one query, on its own connection, so that no update waits for it.
        let database =
            matches!(timeout(DATABASE_LIMIT, app.versions.now(DependsOn::Rows)).await, Ok(Ok(_)));
        Self {
            stopping: app.stop.is_cancelled(),
            catalogue: app.catalogue.get(),
            broker: app.publisher.state(),
            nodes: app.publisher.servers(),
            database,
            clock: app.clock.fault(),
            servers: app.servers.clone(),
        }
    }

    /// Either server keeps the gateway ready: without RabbitMQ lists are still answered, and without PostgreSQL
    /// updates are still accepted. A wrong clock does not matter here, since updates are not stamped by it: it
    /// may be PostgreSQL's that is wrong, and then all gateways would become unready at once.
    pub(crate) fn status(&self) -> StatusCode {
        let serves =
            self.database || matches!(self.broker, BrokerState::Ready | BrokerState::Incomplete);
        if self.catalogue.is_some() && !self.stopping && serves {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }

    /// Whether requests can be sent here, or else what is missing.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match self.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.reasons().join("; ")),
        }
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons = self.reasons_of_servers();
        reasons.extend(self.servers.faults());
        reasons.extend(self.clock.clone());
        reasons
    }

    fn reasons_of_servers(&self) -> Vec<String> {
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
            BrokerState::Silent => reasons.push(
                "RabbitMQ confirms nothing: its queues, or this node of a cluster, may hang, or lack a majority",
            ),
            BrokerState::Blocked => {
                reasons.push("RabbitMQ is short of memory or disk: updates get 503")
            }
            BrokerState::Changing => {
                reasons.push("the number of partitions is being changed: updates get 503")
            }
            BrokerState::Absent => reasons.push("RabbitMQ can't be reached: updates get 503"),
        }
        let mut reasons: Vec<String> = reasons.into_iter().map(str::to_owned).collect();
        if !self.database {
            let why = self.servers.reasons();
            let why = if why.is_empty() { why } else { format!(" ({why})") };
            reasons.push(format!("PostgreSQL can't be reached: lists get 503, updates 202{why}"));
        }
        reasons
    }

    fn body(&self) -> Ready {
        let reasons = self.reasons();
        let status = ReadyStatus::of(self.status() == StatusCode::OK, !reasons.is_empty());
        let catalogue = self.catalogue.as_ref().map(|catalogue| CatalogueState {
            version: catalogue.version,
            components: catalogue.len(),
        });
        let (rabbitmq, database) = (self.nodes.clone().into(), self.servers.report().into());
        Ready { status, reasons, catalogue, rabbitmq, database }
    }
}
