//! `POST /api/v1/component_status`: takes a status update.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::{
    component::{Component, NoComponent},
    database,
    message::{Idempotency, UpdateMessage, Verdict},
    metrics::{self, GATEWAY, Refused, Told},
    outcome::Outcome,
    throttled,
    timestamp::Timestamp,
    traces::{self, Traces},
    update_id::UpdateId,
};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{get_update::UpdateState, status_update::PostedUpdate};
use crate::{
    gateway::App,
    http::{
        body,
        error::{ApiError, RETRY_AFTER},
        request::{Preference, idempotency_key, is_json, is_uncoded},
        schema,
    },
    ingest::{
        pending::{Settled, Wait},
        publisher::PublishError,
    },
    store::{catalogue, incidents::IncidentJson},
};

/// A status update
///
/// Checks it, queues it, and waits for its outcome for 1.5 s, or as long as `Prefer` says. While no
/// outcomes come, as without a worker, only `Prefer: wait=N` still waits. After a 2xx it takes effect once, whatever happens; after a 4xx nothing was queued, except where an
/// `Idempotency-Key` was used for another update, which changed nothing.
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
            component", body = IncidentJson,
            headers(("Update-Id"), ("Link"), ("Preference-Applied"))),
        (status = 201, description = "It changed something: the incident that holds the component now, \
            as it stood right after the update. With `SDB_V1_CONFLICT` also when it changed nothing, since \
            a maintenance covers the component: that maintenance", body = IncidentJson,
            headers(("Update-Id"), ("Link"), ("Preference-Applied"))),
        (status = 202, description = "It is safe, and its outcome not known yet, or it is parked",
            body = Accepted,
            headers(("Update-Id"), ("Link"), ("Location"), ("Retry-After" = u32), ("Preference-Applied"))),
        (status = 400, description = "No JSON, an impact that can't be reported, no such component or \
            several, a body that was cut off, or an Idempotency-Key that can't be used"),
        (status = 401, description = "No token, or none that is valid"),
        (status = 408, description = "The body did not arrive within 10 s"),
        (status = 409, description = "Only with `SDB_V1_CONFLICT`: it changed nothing, since an incident \
            covers the component", body = Conflict,
            headers(("Update-Id"), ("Preference-Applied"))),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not said to be `application/json`, or it is compressed",
            headers(("Accept-Encoding"))),
        (status = 422, description = "A field can't be used, or the Idempotency-Key was used for \
            another update", headers(("Update-Id"), ("Preference-Applied"))),
        (status = 429, description = "This token sends more updates than `SDB_RATE_LIMIT` allows"),
        (status = 503, description = "It can't be taken now. Safe to send again with the same \
            Idempotency-Key; without one the text says whether it may have been queued",
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
    // A refusal that leaves the body unread ends the connection, and must say so: the client would
    // send its next update on it.
    let unread = |error: ApiError| error.with(header::CONNECTION, "close");
    let token = app.auth.check(&headers).map_err(unread)?;
    if app.rate_limit.as_ref().is_some_and(|limit| !limit.take(token, arrived)) {
        return Err(unread(ApiError::too_many(
            "This token sends more updates than it may; nothing was queued, try again",
        )));
    }
    if !is_json(&headers) {
        return Err(unread(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body must be sent as `Content-Type: application/json`",
        )));
    }
    if !is_uncoded(&headers) {
        let message = "The body must be sent as it is, without a `Content-Encoding`";
        let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
        // RFC 9110, 15.5.16.
        return Err(unread(error.with(header::ACCEPT_ENCODING, "identity")));
    }
    let key = idempotency_key(&headers).map_err(unread)?;
    let preference = Preference::read(&headers);
    let _place = app.in_flight.try_acquire().map_err(|_| {
        GATEWAY.refused.of(Refused::InFlight).inc();
        unread(ApiError::unavailable(
            "Too many updates are in flight; nothing was queued, try again",
        ))
    })?;
    let deadline = arrived + preference.wait;
    let (posted, component) = tokio::select! {
        biased;
        prepared = prepare(&app, body, deadline) => prepared?,
        () = app.ends() => return Err(unread(ApiError::unavailable(
            "The gateway is stopping; nothing was queued, try again",
        ))),
    };
    let now = app.clock.now().ok_or_else(|| {
        GATEWAY.refused.of(Refused::Catalogue).inc();
        ApiError::unavailable("PostgreSQL's clock was not read yet; nothing was queued, try again")
    })?;
    let update = message(posted, component, key, now);

    let mut response = deliver(&app, &update, &preference, deadline).await;
    let headers = response.headers_mut();
    if let Some(applied) = preference.applied {
        headers.insert("preference-applied", applied);
    }
    Ok(response)
}

/// What an update says, and the component that it is about.
async fn prepare(
    app: &App,
    body: Body,
    deadline: Instant,
) -> Result<(PostedUpdate, Component), ApiError> {
    let bytes = body::read(body).await.map_err(|e| e.with(header::CONNECTION, "close"))?;
    let posted = PostedUpdate::read(&bytes)?;
    let component = find_component(app, &posted, deadline).await?;
    check_text(app, &posted.text, deadline).await?;
    Ok((posted, component))
}

async fn find_component(
    app: &App,
    posted: &PostedUpdate,
    deadline: Instant,
) -> Result<Component, ApiError> {
    for tried_again in [false, true] {
        let catalogue = app.catalogue.get().ok_or_else(|| {
            GATEWAY.refused.of(Refused::Catalogue).inc();
            ApiError::unavailable("The catalogue was not read yet; nothing was queued, try again")
        })?;
        match catalogue.find(&posted.name, &posted.attributes) {
            Ok(component) => return Ok(component.clone()),
            Err(NoComponent::NotFound) if !tried_again => {
                let asked = timeout_at(deadline, app.catalogue.refresh_for_miss()).await;
                if !asked.unwrap_or(false) {
                    GATEWAY.refused.of(Refused::Catalogue).inc();
                    return Err(ApiError::unavailable(
                        "The component is unknown, and the database can't be asked whether it is \
                        new; nothing was queued, try again",
                    ));
                }
            }
            Err(NoComponent::NotFound) => {}
            Err(NoComponent::Ambiguous(candidates)) => {
                let candidates = candidates.list(Component::short_label);
                return Err(ApiError::bad_request(format!(
                    "Several components have this name and these attributes; add attributes to \
                    name one of: {candidates}"
                )));
            }
        }
    }
    Err(ApiError::bad_request("Component not found"))
}

/// Refuses a text that the database can't hold. If it can't be asked now the update is taken; it is
/// parked when it opens an incident, or is recorded, with such a text.
async fn check_text(app: &App, text: &str, deadline: Instant) -> Result<(), ApiError> {
    let catalogue = app.catalogue.get();
    let encoding = catalogue.as_ref().and_then(|c| c.narrow_encoding.as_ref());
    let Some(encoding) = encoding.filter(|_| !text.is_ascii()) else { return Ok(()) };
    match timeout_at(deadline, catalogue::hold(&app.answers, text)).await {
        Ok(Err(error)) if database::lacks_characters(&error) => {
            let problem =
                format!("Has a character that the database's encoding, {encoding}, does not have.");
            Err(ApiError::unprocessable("json", json!({ "text": [problem] })))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The message for the worker: here an update gets its id and its time of arrival, both by the
/// database's clock.
fn message(
    posted: PostedUpdate,
    component: Component,
    key: Option<String>,
    now: Timestamp,
) -> UpdateMessage {
    let PostedUpdate { impact, text, .. } = posted;
    let idempotency = key.map(|key| {
        let meaning = json!([component.id, impact, text]).to_string();
        let digest = Sha256::digest(meaning.as_bytes());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Idempotency { key, fingerprint }
    });
    let id = UpdateId::at(now);
    UpdateMessage { id, component, impact, text, received_at: now, idempotency }
}

async fn deliver(
    app: &App,
    update: &UpdateMessage,
    preference: &Preference,
    deadline: Instant,
) -> Response {
    let wait = if preference.respond_async {
        Wait::Nothing
    } else {
        let component = update.component.id;
        let partition = app.publisher.partition(component);
        app.waiters.wait_for(update.id, partition, component, preference.wait_asked)
    };
    let wants_reply = !matches!(wait, Wait::Nothing);
    let published = tokio::select! {
        biased;
        published = app.publisher.publish(update, wants_reply, deadline) => published,
        // It goes on by itself, and may yet be confirmed.
        () = app.ends() => Err(PublishError::Unconfirmed),
    };
    if let Err(error) = published {
        return not_accepted(update.id, &error);
    }
    GATEWAY.accepted.inc();
    let waits = matches!(wait, Wait::Outcome(_));
    let waiting = traces::get().filter(|_| waits).map(Traces::wait);
    let settled = match wait {
        // When the wait is over, or the gateway ends, the receipt will have the outcome.
        Wait::Outcome(mut waiter) => {
            waiter.accepted();
            tokio::select! {
                settled = timeout_at(deadline, &mut waiter.settled) => settled.ok().and_then(Result::ok),
                () = app.ends() => None,
            }
        }
        Wait::Probe | Wait::Nothing => None,
    };
    if !(waits || preference.respond_async) {
        GATEWAY.not_awaited.inc();
        throttled!(warn, "", "no outcomes come: updates are answered 202 at once");
    }
    GATEWAY.answered.of(settled.as_ref().map_or(Told::Pending, told)).inc();
    match settled {
        Some(settled) => {
            if let Some(waiting) = waiting {
                waiting.end(&settled.verdict);
            }
            answer(app, update, settled)
        }
        None => accepted(update.id, UpdateState::Pending),
    }
}

/// What the client is told.
fn told(settled: &Settled) -> Told {
    Told::Settled(match (&settled.verdict, &settled.incident) {
        (Verdict::Parked, _) => metrics::Settled::Parked,
        (Verdict::Rejected, _) => metrics::Settled::Rejected,
        // Without its incident it can't be shown.
        (_, None) => return Told::Pending,
        (Verdict::Decided { reason, .. }, Some(_)) => metrics::Settled::Decided(reason.outcome()),
        (Verdict::Repeated { .. }, Some(_)) => metrics::Settled::Repeated,
    })
}

fn answer(app: &App, update: &UpdateMessage, settled: Settled) -> Response {
    let Settled { verdict, incident } = settled;
    let (id, reason, snapshot) = match verdict {
        Verdict::Decided { reason, incident } => (update.id, reason, Some(incident)),
        Verdict::Repeated { original, reason, .. } => (original, reason, None),
        Verdict::Parked => return accepted(update.id, UpdateState::Parked),
        Verdict::Rejected => {
            return with_id(
                update.id,
                ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "This Idempotency-Key was used for another update; nothing was changed",
                ),
            );
        }
    };
    let Some(shown) = incident else { return accepted(id, UpdateState::Pending) };
    let status = status(reason.outcome(), app.conflict);
    if status == StatusCode::CONFLICT {
        let text = snapshot.as_ref().map_or(&shown.incident.text, |snapshot| &snapshot.text);
        let body = Conflict {
            message: "Incident with this the component already exists",
            target_component: update.component.label(),
            existing_incident_id: shown.incident.id.0,
            existing_incident_title: text,
            details: "Check your request parameters",
        };
        return with_id(id, (status, Json(body)));
    }
    let json = snapshot.map_or_else(|| shown.now(), |snapshot| shown.at(&snapshot));
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    with_receipt(id, header::LINK, (status, content_type, json))
}

/// The status of an answer, `as_python` as the Python dashboard gives it: 409 when an incident covers
/// the component (rules 2 and 3), but 201 with the maintenance when one does (rule 1).
fn status(outcome: Outcome, as_python: bool) -> StatusCode {
    match outcome {
        Outcome::Opened | Outcome::Joined | Outcome::Raised | Outcome::Moved => StatusCode::CREATED,
        Outcome::Unchanged if as_python => StatusCode::CONFLICT,
        Outcome::Suppressed if as_python => StatusCode::CREATED,
        Outcome::Unchanged | Outcome::Suppressed => StatusCode::OK,
    }
}

/// The Python dashboard's answer to an update that an incident covers already.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Conflict<'a> {
    message: &'a str,
    target_component: String,
    existing_incident_id: i32,
    existing_incident_title: &'a str,
    details: &'a str,
}

/// An update that is safe. Its receipt will have the outcome.
#[derive(Serialize, ToSchema)]
#[schema(example = json!(Accepted { id: schema::EXAMPLE_ID, state: UpdateState::Pending }))]
struct Accepted {
    #[schema(value_type = uuid::Uuid)]
    id: UpdateId,
    /// `pending` or `parked`.
    state: UpdateState,
}

/// 202: the update is safe, and its receipt will have the outcome.
fn accepted(id: UpdateId, state: UpdateState) -> Response {
    let receipt = (StatusCode::ACCEPTED, Json(Accepted { id, state }));
    let mut response = with_receipt(id, header::LINK, receipt);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    if let Ok(location) = HeaderValue::from_str(&receipt_path(id)) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// 503: it was not taken, or nobody knows.
fn not_accepted(id: UpdateId, error: &PublishError) -> Response {
    let refused = match error {
        PublishError::Absent => Refused::Absent,
        PublishError::Blocked => Refused::Blocked,
        PublishError::Late => Refused::Late,
        PublishError::Full => Refused::Full,
        PublishError::Changing => Refused::Changing,
        PublishError::NoQueue => Refused::NoQueue,
        PublishError::Unconfirmed => Refused::Unconfirmed,
    };
    GATEWAY.refused.of(refused).inc();
    let trace_id = traces::current_id().map(tracing::field::display);
    tracing::debug!(update = %id, trace_id, reason = %error, "update not taken");
    let message = match error {
        PublishError::Unconfirmed => format!(
            "{error}: the update may have been queued or not. Send it again with the same \
            Idempotency-Key, or look at {}",
            receipt_path(id)
        ),
        PublishError::Absent
        | PublishError::Blocked
        | PublishError::Late
        | PublishError::Full
        | PublishError::Changing
        | PublishError::NoQueue => format!("{error}; nothing was queued, try again"),
    };
    with_id(id, ApiError::unavailable(message))
}

fn receipt_path(id: UpdateId) -> String {
    format!("/api/v1/updates/{id}")
}

fn with_id(id: UpdateId, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(HeaderName::from_static("update-id"), value);
    }
    response
}

fn with_receipt(id: UpdateId, link: HeaderName, response: impl IntoResponse) -> Response {
    let mut response = with_id(id, response);
    if let Ok(value) = HeaderValue::from_str(&format!("<{}>; rel=\"monitor\"", receipt_path(id))) {
        response.headers_mut().insert(link, value);
    }
    response
}
