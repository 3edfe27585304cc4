//! `POST /alertmanager/webhook`: takes what Alertmanager's webhook sends.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::Request,
    response::{IntoResponse, Response},
};

use super::{answer::Received, body_schemas::PostedWebhook, receive_alerts::receive};
use crate::{
    alertmanager::alert_bodies::Alerts,
    gateway::App,
    http::{error::ApiError, query::Switch},
};

/// Post the alerts of an Alertmanager
///
/// Takes the body of Alertmanager's webhook, version 4. It is like `POST /alertmanager/api/v2/alerts`, but
/// each alert is firing or resolved by its own `status`, and the answer lists the alerts that are not mapped.
/// Alertmanager sends again at once what is answered 5xx, and what is refused otherwise with its group's next interval.
#[utoipa::path(
    post,
    path = "/alertmanager/webhook",
    operation_id = "webhook",
    params(("dry_run" = inline(Option<Switch>), Query, description = "`true`: show what would become of the alerts, and \
        queue nothing")),
    request_body(content = PostedWebhook),
    responses(
        (status = 200, description = "All mapped alerts are queued. With `dry_run`, what would become of each \
            alert", body = Received, example = json!({
                "accepted": 2,
                "unmapped": [{ "fingerprint": "03f8b6a16c633a06", "reason": "no rule matches it" }],
            })),
        (status = 400, description = "The body is not that of the webhook, or was cut off"),
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
    let received = receive(&app, request, |body| Alerts::of_webhook(body)).await?;
    Ok(Json(received).into_response())
}
