//! `POST /v2/events`: takes what the reporter found.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    domain::{component::ComponentId, incident::IncidentId, update_id::UpdateId},
    wire::message::Report,
};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::posted_event::{PostedEvent, PostedReport};
use crate::{
    api::admission::{check_type, read, unread},
    gateway::App,
    http::{
        body,
        error::{ApiError, RETRY_AFTER},
        idempotency_key,
        prefer::Preference,
    },
    ingest::submit::{ComponentRef, StatusUpdate, Submitted},
};

/// Separates a client's key from the component: no client's key has it.
const KEY_SEPARATOR: char = '\u{1f}';

/// Report components
///
/// Each component is a status update, as of `POST /api/v1/component_status`, with the title as its text. A component
/// that is listed twice is one update. All of them are queued together, and the answer waits for their outcomes: for
/// 1.5 s, or as long as `Prefer` says. An `Idempotency-Key` counts for each component by itself.
#[utoipa::path(
    post,
    path = "/v2/events",
    operation_id = "report",
    params(
        ("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait for the \
            outcomes; `wait=N`: wait up to N seconds, 30 at most (RFC 7240)", example = "wait=5"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            pattern = "^[!-~]([ -~]*[!-~])?$",
            description = "Makes it safe to send the report again, to any gateway, for 24 hours"),
    ),
    request_body(content = PostedReport, example = json!({
        "title": "System incident from monitoring system",
        "description": "High latency",
        "impact": 1,
        "components": [218],
        "start_date": "2026-02-03T15:17:26+00:00",
        "system": true,
        "type": "incident",
    })),
    responses(
        (status = 200, description = "The incident or maintenance that each component is in or covered by",
            body = Results, headers(("Preference-Applied"))),
        (status = 202, description = "They are queued and will be applied; an outcome did not arrive in time, \
            or a report is parked. The receipts show which", body = QueuedEventsJson,
            headers(("Retry-After" = u32), ("Preference-Applied"))),
        (status = 400, description = "The report is invalid, or the Idempotency-Key"),
        (status = 401, description = "No token, or none that is valid"),
        (status = 403, description = "`system` is not true: only operators may do this"),
        (status = 408, description = "The body did not arrive within 10 s"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The `Content-Type` is not `application/json`, or the body is compressed",
            headers(("Accept-Encoding"))),
        (status = 422, description = "The Idempotency-Key was used for another report of a component, or the \
            database's encoding lacks a character of the title", headers(("Preference-Applied"))),
        (status = 429, description = "This token sends more updates than `SDB_RATE_LIMIT` allows"),
        (status = 503, description = "Not all of it can be accepted now. It is safe to send it again with the \
            same Idempotency-Key; `errMsg` says whether something was or may have been queued", headers(("Preference-Applied"))),
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
    let key = idempotency_key::read(&headers).map_err(unread)?;
    let preference = Preference::read(&headers);
    // What it needs at least, before the body is read.
    intake.count(caller.token, arrived).map_err(unread)?;
    let place = intake.place().map_err(unread)?;
    let bytes = read(&app.stop, body::read(body)).await?;
    let event = PostedEvent::read(&bytes, app.clock.now())?;
    let listed = &event.components;
    let distinct = distinct(listed);
    let mut places = vec![place];
    for _ in 1..distinct.len() {
        intake.count(caller.token, arrived)?;
        places.push(intake.place()?);
    }
    let updates = updates(&event, &distinct, key.as_deref());
    let deadline = arrived + preference.wait;
    let submitted = intake.submit_all(updates, &caller.subject, &preference, deadline).await?;
    Ok(preference.mark(answer(listed, &distinct, submitted)))
}

/// Each component once, where it is listed first.
fn distinct(listed: &[ComponentId]) -> Vec<ComponentId> {
    let mut known = HashSet::new();
    listed.iter().copied().filter(|id| known.insert(*id)).collect()
}

/// One update for each component.
fn updates(
    event: &PostedEvent,
    components: &[ComponentId],
    key: Option<&str>,
) -> Vec<StatusUpdate> {
    let update = |id: ComponentId| StatusUpdate {
        component: ComponentRef::Id(id),
        condition: event.impact.into(),
        report: Report::default(),
        text: event.title.clone(),
        idempotency_key: key.map(|key| format!("{key}{KEY_SEPARATOR}{id}")),
    };
    components.iter().copied().map(update).collect()
}

/// A component that was taken.
#[derive(Clone, Copy)]
struct TakenComponent {
    id: UpdateId,
    /// The incident that it is in or covered by, if it was decided in time.
    incident: Option<IncidentId>,
}

/// The answer for the components as they were listed, from what became of each of them.
fn answer(listed: &[ComponentId], distinct: &[ComponentId], submitted: Vec<Submitted>) -> Response {
    let (mut taken, mut refused) = (HashMap::new(), None);
    for (component_id, submitted) in distinct.iter().copied().zip(submitted) {
        let (id, incident) = match submitted {
            Submitted::Decided(update) => {
                (update.id, update.incident.as_ref().map(|shown| shown.incident.id))
            }
            Submitted::Accepted(id, _) => (id, None),
            Submitted::Refused(_, error) => {
                refused.get_or_insert((component_id, error));
                continue;
            }
        };
        taken.insert(component_id, TakenComponent { id, incident });
    }
    if let Some((component, error)) = refused {
        return refusal(component, error, taken.len(), distinct.len()).into_response();
    }
    let of_each = || listed.iter().filter_map(|id| Some((*id, *taken.get(id)?)));
    let decided: Option<Vec<ResultJson>> = of_each()
        .map(|(component_id, taken)| {
            Some(ResultJson { component_id, incident_id: taken.incident? })
        })
        .collect();
    if let Some(result) = decided {
        return Json(Results { result }).into_response();
    }
    let result = of_each().map(|(component_id, taken)| QueuedJson { component_id, id: taken.id });
    let retry_after = [(header::RETRY_AFTER, RETRY_AFTER)];
    (StatusCode::ACCEPTED, retry_after, Json(QueuedEventsJson { result: result.collect() }))
        .into_response()
}

/// The error of one component. It must not say of the whole report that nothing was queued, if other components were.
fn refusal(component: ComponentId, error: ApiError, taken: usize, all: usize) -> ApiError {
    if taken == 0 {
        return error;
    }
    if error.status() == StatusCode::SERVICE_UNAVAILABLE {
        return ApiError::unavailable(format!(
            "{taken} of {all} components were queued; component {component} was not, or may have been. Send the \
            report again with the same Idempotency-Key"
        ));
    }
    let (status, message, _) = error.into_parts();
    ApiError::new(
        status,
        format!("component {component}: {message}. {taken} of {all} components were queued"),
    )
}

/// What became of a report.
#[derive(Serialize, ToSchema)]
#[schema(as = EventResults)]
struct Results {
    /// One for each component, in the order of the report.
    result: Vec<ResultJson>,
}

/// What became of one component.
#[derive(Serialize, ToSchema)]
#[schema(as = EventResult)]
struct ResultJson {
    /// The component.
    #[schema(value_type = i32)]
    component_id: ComponentId,
    /// The incident or maintenance that it is in or covered by.
    #[schema(value_type = i32)]
    incident_id: IncidentId,
}

/// A report that is queued.
#[derive(Serialize, ToSchema)]
#[schema(as = QueuedEvents)]
struct QueuedEventsJson {
    /// One for each component, in the order of the report.
    result: Vec<QueuedJson>,
}

/// One component of a report that is queued.
#[derive(Serialize, ToSchema)]
#[schema(as = QueuedEvent)]
struct QueuedJson {
    /// The component.
    #[schema(value_type = i32)]
    component_id: ComponentId,
    /// The id of its update, whose receipt is at `/api/v1/updates/{id}`.
    #[schema(value_type = uuid::Uuid)]
    id: UpdateId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_that_nothing_was_queued_only_if_that_is_so() {
        let full = || ApiError::unavailable("the queue is full; nothing was queued, try again");
        let said = |error: ApiError| error.into_parts().1;
        assert!(said(refusal(ComponentId(7), full(), 0, 3)).contains("nothing was queued"));
        let partly = refusal(ComponentId(7), full(), 2, 3);
        assert_eq!(partly.status(), StatusCode::SERVICE_UNAVAILABLE);
        let partly = said(partly);
        assert!(partly.contains("2 of 3 components were queued; component 7"), "{partly}");
        assert!(!partly.contains("nothing was queued"), "{partly}");
        let key = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "nothing was changed");
        let partly = refusal(ComponentId(7), key, 1, 2);
        assert_eq!(partly.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert!(said(partly).starts_with("component 7: nothing was changed. 1 of 2"));
    }

    #[test]
    fn a_component_that_is_listed_twice_is_one_update() {
        let listed = [2, 1, 2, 3, 1].map(ComponentId);
        assert_eq!(distinct(&listed), [2, 1, 3].map(ComponentId));
    }
}
