//! `POST /alertmanager/api/v2/alerts`: takes alerts as an Alertmanager does.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};

use super::{
    answer::{DryRun, Received},
    body_schemas::PostedAlerts,
    receive_alerts::receive,
};
use crate::{
    alertmanager::alert_bodies::Alerts,
    gateway::App,
    http::{error::ApiError, query::Switch},
};

/// Post alerts
///
/// Takes what Prometheus and other programs send to an Alertmanager (its API v2). Each alert becomes an
/// update of the component that the mapping names; it is firing until its `endsAt`. The answer waits until
/// RabbitMQ has confirmed all updates, for 8 s, and not for their outcomes. An alert that is malformed or not
/// mapped is counted and logged, and does not affect the others. If not all mapped alerts could be queued,
/// the answer is 503. `SDB_RATE_LIMIT` and `SDB_MAX_IN_FLIGHT` count alerts; a request that exceeds them waits, too.
#[utoipa::path(
    post,
    path = "/alertmanager/api/v2/alerts",
    operation_id = "alerts",
    params(("dry_run" = inline(Option<Switch>), Query, description = "`true`: show what would become of the alerts, and \
        queue nothing")),
    request_body(content = PostedAlerts),
    responses(
        (status = 200, description = "All mapped alerts are queued: an empty body. With `dry_run`, what would \
            become of each alert", body = DryRun),
        (status = 400, description = "The body is not a list, or was cut off"),
        (status = 401, description = "No token, or none that is valid"),
        (status = 413, description = "The body is larger than 4 MiB, or has more than 20000 alerts"),
        (status = 415, description = "The `Content-Type` is not `application/json`, or the body is compressed",
            headers(("Accept-Encoding"))),
        (status = 422, description = "`dry_run` is neither true nor false, or the database's encoding lacks a \
            character of the token's `sub`"),
        (status = 503, description = "Not all mapped alerts could be queued, the token sends more than \
            `SDB_RATE_LIMIT` allows, or the body did not arrive within 10 s. Sending all of them again is harmless"),
    ),
    security(("token" = [])),
)]
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    Ok(match receive(&app, request, |body| Alerts::of_list(body)).await? {
        Received::Taken(_) => StatusCode::OK.into_response(),
        Received::DryRun(planned) => Json(planned).into_response(),
    })
}
