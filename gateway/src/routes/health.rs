//! `GET /healthz` and `GET /readyz`: is the process alive, and should requests come here.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{app::App, broker::BrokerState, catalogue::Catalogue};

const DATABASE_LIMIT: Duration = Duration::from_secs(1);

/// The process runs and answers.
pub(crate) async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether requests should come here, and what is missing.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let readiness = Readiness::of(&app).await;
    (readiness.status(), Json(readiness.body())).into_response()
}

/// What the gateway can do at this moment.
pub(crate) struct Readiness {
    stopping: bool,
    catalogue: Option<Arc<Catalogue>>,
    pub(crate) broker: BrokerState,
    /// Whether PostgreSQL answers.
    pub(crate) database: bool,
}

impl Readiness {
    pub(crate) async fn of(app: &App) -> Self {
        let ping = sqlx::query("SELECT 1").execute(&app.answers);
        let database = matches!(timeout(DATABASE_LIMIT, ping).await, Ok(Ok(_)));
        Self {
            stopping: app.stop.is_cancelled(),
            catalogue: app.catalogue.get(),
            broker: app.publisher.state(),
            database,
        }
    }

    /// Without RabbitMQ lists are still shown, and without PostgreSQL updates are still taken, so that
    /// either alone keeps the gateway ready.
    pub(crate) fn status(&self) -> StatusCode {
        let serves = self.database || self.broker == BrokerState::Ready;
        if self.catalogue.is_some() && !self.stopping && serves {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }

    fn reasons(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if self.stopping {
            reasons.push("the gateway is stopping");
        }
        if self.catalogue.is_none() {
            reasons.push("the catalogue was not read yet");
        }
        match self.broker {
            BrokerState::Ready => {}
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
        reasons
    }

    fn body(&self) -> Value {
        let reasons = self.reasons();
        let status = match (self.status() == StatusCode::OK, reasons.is_empty()) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "not ready",
        };
        let catalogue = self.catalogue.as_ref().map(
            |catalogue| json!({ "version": catalogue.version, "components": catalogue.len() }),
        );
        json!({ "status": status, "reasons": reasons, "catalogue": catalogue })
    }
}
