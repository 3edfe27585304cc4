//! `GET /api/v1/updates/{id}`: the receipt of an update.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use shared::domain::{
    outcome::{InboxOutcome, Reason},
    timestamp::Timestamp,
    update_id::UpdateId,
};
use utoipa::{ToSchema, openapi::Object};

use crate::{
    gateway::App,
    http::{
        error::{ApiError, RETRY_AFTER},
        schema,
    },
    ingest::submit::Decided,
    store::{
        incidents::{self, Incident},
        pools::Pool,
        receipts::{self, Record},
    },
    view::{incident_json::IncidentJson, update_state::UpdateState},
};

/// What became of an update. All fields are always there.
#[derive(Serialize, ToSchema)]
pub(super) struct Receipt {
    /// The id of the update; for one that repeated an idempotency key, that of the first one with the key.
    #[schema(value_type = uuid::Uuid)]
    id: UpdateId,
    state: UpdateState,
    #[schema(schema_with = outcomes)]
    outcome: Option<String>,
    /// The rule that decided the update, or why it is rejected or parked. Null if it is pending.
    reason: Option<String>,
    /// The component as it is now. Null if the update is pending or parked.
    #[schema(value_type = Option<ReceiptComponent>)]
    component: Option<Value>,
    /// The reported impact: 1 minor, 2 major, 3 outage. Null if the update says `ok`, is pending or is parked.
    #[schema(minimum = 1, maximum = 3)]
    impact: Option<i16>,
    /// When a gateway received the update, by PostgreSQL's clock, in UTC. Null if it is pending or parked.
    #[schema(format = DateTime)]
    received_at: Option<String>,
    /// When the update was decided or parked, by PostgreSQL's clock, in UTC. Null if it is pending.
    #[schema(format = DateTime)]
    processed_at: Option<String>,
    /// The incident that the update put the component in, or that covered it, as it is now. Null without an
    /// outcome, and if the incident was deleted since.
    #[schema(value_type = Option<IncidentJson>)]
    incident: Option<Incident>,
}

/// The component of an update.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the database writes")]
struct ReceiptComponent {
    /// Its id.
    id: i32,
    /// Its name; null if it was deleted since.
    name: Option<String>,
    /// In the order of the catalogue; empty if it was deleted since.
    attributes: Vec<schema::Attribute>,
}

/// The words of all outcomes, and null.
fn outcomes() -> Object {
    let mut words: Vec<_> = Reason::ALL.map(|reason| reason.outcome().word()).into();
    words.sort_unstable();
    words.dedup();
    let mut outcome = schema::one_of(words.into_iter().map(Value::from).chain([Value::Null]));
    outcome.description = Some("What the update did. Null unless `state` is `done`.".to_owned());
    outcome
}

/// Get the receipt of an update
///
/// An update that was neither decided nor parked yet is `pending`. So is an id that was never used, until it is
/// too old to be decided; from then on the answer is 404.
#[utoipa::path(
    get,
    path = "/api/v1/updates/{id}",
    operation_id = "receipt",
    params(("id" = uuid::Uuid, Path, description = "The id of the update, from `Update-Id`")),
    responses(
        (status = 200, description = "The receipt", body = Receipt, headers(("Retry-After" = u32)),
            example = json!(blank(schema::EXAMPLE_ID, UpdateState::Pending, None, None))),
        (status = 401, description = "The token is missing or invalid"),
        (status = 404, description = "There is no update with this id"),
        (status = 503, description = "The database can't be read now"),
    ),
    security(("token" = [])),
)]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    app.auth.check(&headers)?;
    let not_found = || ApiError::new(StatusCode::NOT_FOUND, "There is no update with this id");
    let Path(id) = id.map_err(|_| not_found())?;
    let id = UpdateId(id.parse().map_err(|_| not_found())?);
    let made_at = id.made_at().ok_or_else(not_found)?;
    if let Some(receipt) = of_decided(&app, id).await? {
        return Ok(Json(receipt).into_response());
    }
    let parked = receipts::parked(&app.answers, id).await?;
    if let Some((reason, parked_at)) = parked {
        let body = blank(id, UpdateState::Parked, Some(reason), Some(parked_at));
        return Ok(Json(body).into_response());
    }
    let may_come = receipts::may_come(&app.answers, made_at, app.inbox_days).await?;
    if !may_come {
        return Err(not_found());
    }
    let mut response = Json(blank(id, UpdateState::Pending, None, None)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    Ok(response)
}

/// The receipt of an update that is in the inbox.
pub(super) async fn of_decided(app: &App, id: UpdateId) -> Result<Option<Receipt>, ApiError> {
    match receipts::record(&app.answers, id).await? {
        Some(record) => Ok(Some(receipt(&app.answers, record).await?)),
        None => Ok(None),
    }
}

/// The receipt of an update that was decided without an incident, as far as the reply says it all.
pub(super) fn of_reply(decided: &Decided) -> Option<Receipt> {
    let Decided { id, component, condition, reason, received_at, decided_at, .. } = decided;
    Some(Receipt {
        id: *id,
        state: UpdateState::Done,
        outcome: Some(reason.outcome().word().to_owned()),
        reason: Some(reason.word().to_owned()),
        component: Some(json!(component)),
        impact: condition.impact().map(i16::from),
        received_at: Some(received_at.to_the_microsecond()),
        processed_at: Some((*decided_at)?.to_the_microsecond()),
        incident: None,
    })
}

async fn receipt(database: &Pool, record: Record) -> Result<Receipt, ApiError> {
    let incident = match record.incident_id {
        Some(id) => incidents::read(database, &[id]).await?.remove(&id),
        None => None,
    };
    let rejected = record.outcome == InboxOutcome::REJECTED;
    // A component that was removed since is still named by its id.
    let component = record.component.map_or_else(
        || json!({ "id": record.component_id, "name": null, "attributes": [] }),
        |component| component.0,
    );
    Ok(Receipt {
        id: record.id,
        state: if rejected { UpdateState::Rejected } else { UpdateState::Done },
        outcome: (!rejected).then_some(record.outcome),
        reason: Some(record.reason),
        component: Some(component),
        impact: record.impact,
        received_at: Some(record.received_at.to_the_microsecond()),
        processed_at: Some(record.decided_at.to_the_microsecond()),
        incident,
    })
}

/// A receipt without an outcome. Every key is always there.
fn blank(
    id: UpdateId,
    state: UpdateState,
    reason: Option<String>,
    processed_at: Option<Timestamp>,
) -> Receipt {
    Receipt {
        id,
        state,
        outcome: None,
        reason,
        component: None,
        impact: None,
        received_at: None,
        processed_at: processed_at.map(Timestamp::to_the_microsecond),
        incident: None,
    }
}
