//! `GET /api/v1/updates/{id}`: what became of one update.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use shared::{
    component::ComponentId, incident::IncidentId, timestamp::Timestamp, update::UpdateId,
};
use sqlx::{FromRow, PgPool};

use crate::{
    app::App,
    error::{ApiError, RETRY_AFTER},
    incident,
};

/// Seconds that the clock of the gateway that made an id may be ahead of the database's.
const CLOCK_DIFFERENCE: i64 = 5;

#[derive(FromRow)]
struct Record {
    id: UpdateId,
    outcome: String,
    reason: String,
    component_id: ComponentId,
    component: Option<sqlx::types::Json<Value>>,
    impact: i16,
    received_at: Timestamp,
    decided_at: Timestamp,
    incident_id: Option<IncidentId>,
}

/// Shows the receipt.
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
    if let Some(record) = record(&app.answers, id).await? {
        return Ok(Json(receipt(&app.answers, record).await?).into_response());
    }
    let parked: Option<(String, Timestamp)> = sqlx::query_as(
        "SELECT reason, parked_at FROM sdb_parked WHERE update_id = $1 AND put_back_at IS NULL",
    )
    .bind(id)
    .fetch_optional(&app.answers)
    .await?;
    if let Some((reason, parked_at)) = parked {
        let body = blank(id, "parked", Some(&reason), Some(parked_at));
        return Ok(Json(body).into_response());
    }
    let may_come: bool = sqlx::query_scalar(
        "SELECT $1 BETWEEN now - make_interval(days => $2) AND now + make_interval(secs => $3)
        FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) AS clock",
    )
    .bind(made_at)
    .bind(app.inbox_days as i32)
    .bind(CLOCK_DIFFERENCE as f64)
    .fetch_one(&app.answers)
    .await?;
    if !may_come {
        return Err(not_found());
    }
    let mut response = Json(blank(id, "pending", None, None)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    Ok(response)
}

/// The inbox's record; for an update that repeated another one, that one's.
async fn record(database: &PgPool, id: UpdateId) -> Result<Option<Record>, sqlx::Error> {
    sqlx::query_as(
        "SELECT i.id, i.outcome, i.reason, i.component_id, i.impact, i.received_at, i.decided_at,
            i.incident_id,
            (SELECT json_build_object('id', c.id, 'name', c.name, 'attributes', coalesce(
                (SELECT json_agg(json_build_object('name', a.name, 'value', a.value) ORDER BY a.id)
                    FROM component_attribute a WHERE a.component_id = c.id), '[]'))
                FROM component c WHERE c.id = i.component_id) AS component
        FROM sdb_inbox asked
        JOIN sdb_inbox i ON i.id = CASE asked.outcome WHEN 'repeated' THEN asked.original ELSE asked.id END
        WHERE asked.id = $1",
    )
    .bind(id)
    .fetch_optional(database)
    .await
}

async fn receipt(database: &PgPool, record: Record) -> Result<Value, ApiError> {
    let incident = match record.incident_id {
        Some(id) => incident::read(database, &[id]).await?.remove(&id),
        None => None,
    };
    let rejected = record.outcome == "rejected";
    Ok(json!({
        "id": record.id,
        "state": if rejected { "rejected" } else { "done" },
        "outcome": (!rejected).then_some(record.outcome),
        "reason": record.reason,
        // A component that was removed since is still named by its id.
        "component": record.component.map_or_else(
            || json!({ "id": record.component_id, "name": null, "attributes": [] }), |c| c.0),
        "impact": record.impact,
        "received_at": record.received_at.to_the_microsecond(),
        "processed_at": record.decided_at.to_the_microsecond(),
        "incident": incident,
    }))
}

/// A receipt without an outcome. Every key is always there.
fn blank(
    id: UpdateId,
    state: &str,
    reason: Option<&str>,
    processed_at: Option<Timestamp>,
) -> Value {
    json!({
        "id": id,
        "state": state,
        "outcome": null,
        "reason": reason,
        "component": null,
        "impact": null,
        "received_at": null,
        "processed_at": processed_at.map(Timestamp::to_the_microsecond),
        "incident": null,
    })
}
