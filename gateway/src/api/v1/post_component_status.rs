//! `POST /api/v1/component_status`: takes a status update.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    response::Response,
};
use serde::Serialize;
use shared::domain::update_id::UpdateId;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    get_update,
    outcome_status::{CONFLICT, status},
    posted_update::PostedUpdate,
};
use crate::{
    api::admission::{check_type, read, unread},
    gateway::App,
    http::{
        body,
        error::{ApiError, RETRY_AFTER},
        idempotency_key,
        prefer::Preference,
        receipt, schema,
    },
    ingest::submit::{Decided, Submitted},
    view::{
        incident_json::{IncidentJson, ShownIncident},
        update_state::UpdateState,
    },
};

/// Post a status update
///
/// The update is checked and queued, and the answer waits for its outcome: for 1.5 s, or as long as `Prefer`
/// says. While no outcomes arrive at all, as without a worker, only `Prefer: wait=N` waits. An update that is
/// answered 2xx is decided exactly once, even if processes crash: it is applied, rejected or parked. One that is
/// answered 4xx changes nothing.
#[utoipa::path(
    post,
    path = "/api/v1/component_status",
    operation_id = "update",
    params(
        ("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait for the \
            outcome; `wait=N`: wait up to N seconds, 30 at most (RFC 7240)", example = "wait=5"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            pattern = "^[!-~]([ -~]*[!-~])?$",
            description = "Makes it safe to send the update again, to any gateway, for 24 hours"),
    ),
    request_body(content = PostedUpdate, example = json!({
        "name": "Object Storage",
        "impact": "minor",
        "text": "High latency",
        "attributes": [{ "name": "region", "value": "Region 1" }],
    })),
    responses(
        (status = 200, description = "It changed nothing: the incident or maintenance that covers the \
            component; or, for `ok` or a late alert, the receipt if nothing covers it", body = Unchanged,
            headers(("Update-Id"), ("Link"), ("Preference-Applied"))),
        (status = 201, description = "It changed something: the incident that the component is in now, \
            as it was right after the update; for `ok` the one that it left. With `SDB_V1_CONFLICT` also if it changed nothing because a \
            maintenance covers the component: that maintenance", body = IncidentJson,
            headers(("Update-Id"), ("Link"), ("Preference-Applied"))),
        (status = 202, description = "It is queued and will be applied; its outcome did not arrive in \
            time, or it is parked. The receipt shows which",
            body = Accepted,
            headers(("Update-Id"), ("Link"), ("Location"), ("Retry-After" = u32), ("Preference-Applied"))),
        (status = 400, description = "The body is not JSON or was cut off, the impact can't be reported, no \
            component or several have this name and these attributes, or the Idempotency-Key is invalid"),
        (status = 401, description = "The token is missing or invalid"),
        (status = 408, description = "The body did not arrive within 10 s"),
        (status = 409, description = "Only with `SDB_V1_CONFLICT`: it changed nothing, because an incident \
            covers the component", body = Conflict,
            headers(("Update-Id"), ("Preference-Applied"))),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The `Content-Type` is not `application/json`, or the body is compressed",
            headers(("Accept-Encoding"))),
        (status = 422, description = "A field is invalid, the Idempotency-Key was used for another \
            update, or the component has 1,000 reports", headers(("Update-Id"), ("Preference-Applied"))),
        (status = 429, description = "This token sends more updates than `SDB_RATE_LIMIT` allows"),
        (status = 503, description = "It can't be accepted now. It is safe to send it again with the same \
            Idempotency-Key; `message` says whether it may have been queued",
            headers(("Update-Id"), ("Preference-Applied"))),
    ),
    security(("token" = [])),
)]
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let intake = app.intake();
    let caller = app.auth.check(&headers).map_err(unread)?;
    intake.count(caller.token, arrived).map_err(unread)?;
    check_type(&headers).map_err(unread)?;
    let key = idempotency_key::read(&headers).map_err(unread)?;
    let preference = Preference::read(&headers);
    let _place = intake.place().map_err(unread)?;
    let bytes = read(&app.stop, body::read(body)).await?;
    let update = PostedUpdate::read(&bytes)?.with_key(key);
    let deadline = arrived + preference.wait;
    let submitted = intake.submit_one(update, &caller.subject, &preference, deadline).await;
    Ok(preference.mark(match submitted {
        Submitted::Decided(decided) => {
            let status = status(&decided, app.conflict);
            match &decided.incident {
                Some(shown) => decision(status, &decided, shown),
                None => without_incident(&app, status, &decided).await,
            }
        }
        Submitted::Accepted(id, state) => accepted(id, state),
        Submitted::Refused(Some(id), error) => receipt::with_id(id, error),
        Submitted::Refused(None, error) => return Err(error),
    }))
}

/// The incident of an update that was decided, as it stood right after.
fn decision(status: StatusCode, decided: &Decided, shown: &ShownIncident) -> Response {
    let Decided { id, component, snapshot, .. } = decided;
    if status == StatusCode::CONFLICT {
        let text = snapshot.as_ref().map_or(&shown.incident.text, |snapshot| &snapshot.text);
        let body = Conflict {
            message: CONFLICT,
            target_component: component.label(),
            existing_incident_id: shown.incident.id.0,
            existing_incident_title: text,
            details: "Check your request parameters",
        };
        return receipt::with_id(*id, (status, Json(body)));
    }
    let json = snapshot.as_ref().map_or_else(|| shown.now(), |snapshot| shown.at(snapshot));
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    receipt::with_link(*id, (status, content_type, json))
}

/// The receipt of an update that was decided and has no incident.
async fn without_incident(app: &App, status: StatusCode, decided: &Decided) -> Response {
    let id = decided.id;
    let receipt = match get_update::of_reply(decided) {
        Some(receipt) => Some(receipt),
        // It was decided before.
        None => get_update::of_decided(app, id).await.ok().flatten(),
    };
    match receipt {
        Some(receipt) => receipt::with_link(id, (status, Json(receipt))),
        None => accepted(id, UpdateState::Pending),
    }
}

/// What covers the component of an update that changed nothing, or the receipt of that update.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes the answers of two functions")]
enum Unchanged<'a> {
    Incident(IncidentJson<'a>),
    Receipt(get_update::Receipt),
}

/// The Python dashboard's answer to an update that an incident already covers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Conflict<'a> {
    /// Always the same text.
    message: &'a str,
    /// The component's name with the values of its attributes.
    target_component: String,
    /// The id of the incident that covers it.
    existing_incident_id: i32,
    /// The title of that incident.
    existing_incident_title: &'a str,
    /// Always the same text.
    details: &'a str,
}

/// An update that is queued and whose outcome is not known yet, or that is parked. Its receipt shows the rest.
#[derive(Serialize, ToSchema)]
#[schema(example = json!(Accepted { id: schema::EXAMPLE_ID, state: UpdateState::Pending }))]
struct Accepted {
    /// The id of the update.
    #[schema(value_type = uuid::Uuid)]
    id: UpdateId,
    /// `pending` or `parked`.
    state: UpdateState,
}

/// 202, with the way to the receipt.
fn accepted(id: UpdateId, state: UpdateState) -> Response {
    let retry_after = [(header::RETRY_AFTER, RETRY_AFTER)];
    let body = Json(Accepted { id, state });
    receipt::with_location(id, (StatusCode::ACCEPTED, retry_after, body))
}
