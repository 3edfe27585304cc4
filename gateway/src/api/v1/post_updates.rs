//! `POST /api/v1/updates`: takes many status updates at once, each with a result of its own.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use shared::domain::{incident::IncidentId, update_id::UpdateId};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{
    many_updates::{self, PostedUpdates},
    outcome_status::{CONFLICT, status},
};
use crate::{
    api::admission::{check_type, read, unread},
    gateway::App,
    http::{body, error::ApiError, prefer::Preference, schema::EXAMPLE_ID},
    ingest::submit::Submitted,
    store::incidents::Incident,
    view::{
        incident_json::{IncidentJson, ShownIncident},
        update_state::UpdateState,
    },
};

/// Post many status updates
///
/// Takes up to 500 updates, each in the form of `POST /api/v1/component_status`, with its idempotency key in
/// the field `idempotency_key`. The answer waits for their outcomes for 1.5 s, or as long as `Prefer` says. If
/// the request as a whole is invalid, it is refused and nothing is queued. Otherwise every update has a result,
/// in the order of the request, with the status that it would have had alone: an update that is refused does
/// not affect the others. Updates of one component are applied in their order. `SDB_RATE_LIMIT` and
/// `SDB_MAX_IN_FLIGHT` count updates; those beyond these limits have the status 429 or 503.
#[utoipa::path(
    post,
    path = "/api/v1/updates",
    operation_id = "updates",
    params(
        ("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait for the \
            outcomes; `wait=N`: wait up to N seconds, 30 at most (RFC 7240)", example = "wait=5"),
    ),
    request_body(content = PostedUpdates, example = json!({
        "updates": [
            { "name": "Object Storage", "impact": "minor", "text": "High latency",
                "attributes": [{ "name": "region", "value": "Region 1" }],
                "idempotency_key": "8e03978e-40d5-43dd-bc93-6894a57f9324" },
            { "name": "DNS", "impact": 2 },
        ],
    })),
    responses(
        (status = 200, description = "What became of each update", body = Results,
            headers(("Preference-Applied")), example = json!({
                "results": [
                    { "status": 201, "id": EXAMPLE_ID, "incident": 1 },
                    { "status": 400, "error": "Component not found" },
                ],
                "incidents": [{
                    "id": 1, "text": "High latency", "impact": 1,
                    "start_date": "2026-03-01 12:00", "end_date": null,
                    "updates": [],
                }],
            })),
        (status = 400, description = "The body is not JSON or was cut off, or there is a header \
            `Idempotency-Key`: each update has its own in the field `idempotency_key`"),
        (status = 401, description = "The token is missing or invalid"),
        (status = 408, description = "The body did not arrive within 10 s"),
        (status = 413, description = "The body is larger than 1 MiB"),
        (status = 415, description = "The `Content-Type` is not `application/json`, or the body is compressed",
            headers(("Accept-Encoding"))),
        (status = 422, description = "`updates` is not a list of at most 500, or not the only field"),
        (status = 503, description = "There is no memory for another large body, or the gateway is \
            stopping; nothing was queued"),
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
    check_type(&headers).map_err(unread)?;
    no_common_key(&headers).map_err(unread)?;
    let preference = Preference::read(&headers);
    let (bytes, _memory) = read(&app.stop, body::read_many(body, &app.bodies)).await?;
    let updates = many_updates::read(&bytes)?;
    drop(bytes);
    let mut places = Vec::with_capacity(updates.len());
    // In the same order as for a single update: the body is checked last.
    let admitted = updates.into_iter().map(|update| {
        intake.count(caller.token, arrived)?;
        let place = intake.place()?;
        let update = update?;
        places.push(place);
        Ok(update)
    });
    let admitted = admitted.collect();
    let deadline = arrived + preference.wait;
    let submitted = intake.submit(admitted, &caller.subject, &preference, deadline).await;

    let (results, mut incidents) = results(submitted, app.conflict);
    // A later one of these updates, whose result names another incident, may have changed this one.
    let ids = incidents.keys().copied().collect();
    incidents.extend(timeout_at(deadline, app.pending.shown(&ids)).await.unwrap_or_default());
    let incidents = incidents.values().map(|shown| &shown.incident).collect();
    Ok(preference.mark(Json(Results { results, incidents }).into_response()))
}

/// # Errors
/// 400 for the header `Idempotency-Key`, which could not apply to all updates.
fn no_common_key(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key("idempotency-key") {
        return Err(ApiError::bad_request(
            "An Idempotency-Key is of one update: send each its own in the field `idempotency_key`",
        ));
    }
    Ok(())
}

/// What became of many updates.
#[derive(Serialize, ToSchema)]
struct Results<'a> {
    /// One for each update, in the order of the request.
    results: Vec<ResultJson>,
    /// The incidents that the results name, each once, as they are now.
    #[schema(value_type = Vec<IncidentJson>)]
    incidents: Vec<&'a Incident>,
}

/// What became of one of the updates.
#[derive(Serialize, ToSchema)]
#[schema(as = UpdateResult)]
struct ResultJson {
    /// The HTTP status that the update would have been answered with alone.
    #[schema(minimum = 200, maximum = 599)]
    status: u16,
    /// The id of the update, or of the first one with the same idempotency key. Absent if it was refused before
    /// it got one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = uuid::Uuid, required = false)]
    id: Option<UpdateId>,
    /// With status 202 only: `pending` or `parked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = UpdateState, required = false)]
    state: Option<UpdateState>,
    /// The id of the incident that the component is in or that covers it. Absent without an
    /// outcome, and if there is no such incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i32, required = false)]
    incident: Option<IncidentId>,
    /// Why the update was refused. Absent if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    error: Option<String>,
    /// The errors of each invalid field, below `json`. Absent if no field is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    errors: Option<Value>,
}

impl ResultJson {
    fn new(status: StatusCode, id: Option<UpdateId>) -> Self {
        let status = status.as_u16();
        Self { status, id, state: None, incident: None, error: None, errors: None }
    }
}

/// The result of each update, and the incidents that they name, each as it was read for one of them.
fn results(
    submitted: Vec<Submitted>,
    as_python: bool,
) -> (Vec<ResultJson>, BTreeMap<IncidentId, Arc<ShownIncident>>) {
    let mut incidents = BTreeMap::new();
    let result = |submitted| match submitted {
        Submitted::Decided(decided) => {
            let status = status(&decided, as_python);
            let incident = decided.incident.as_ref().map(|shown| shown.incident.id);
            incidents.extend(incident.zip(decided.incident));
            let error = (status == StatusCode::CONFLICT).then(|| CONFLICT.to_owned());
            ResultJson { incident, error, ..ResultJson::new(status, Some(decided.id)) }
        }
        Submitted::Accepted(id, state) => {
            ResultJson { state: Some(state), ..ResultJson::new(StatusCode::ACCEPTED, Some(id)) }
        }
        Submitted::Refused(id, error) => {
            let (status, message, errors) = error.into_parts();
            ResultJson { error: Some(message), errors, ..ResultJson::new(status, id) }
        }
    };
    let results = submitted.into_iter().map(result).collect();
    (results, incidents)
}
