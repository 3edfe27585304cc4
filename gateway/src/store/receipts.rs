//! Receipts: what the database has of single updates.

use serde_json::Value;
use shared::domain::{
    component::ComponentId, incident::IncidentId, timestamp::Timestamp, update_id::UpdateId,
};
use sqlx::FromRow;

use super::{clock, pools::Pool};

/// An update in the inbox, with its component as it is now.
#[derive(FromRow)]
pub(crate) struct Record {
    pub(crate) id: UpdateId,
    pub(crate) outcome: String,
    pub(crate) reason: String,
    pub(crate) component_id: ComponentId,
    pub(crate) component: Option<sqlx::types::Json<Value>>,
    pub(crate) impact: Option<i16>,
    pub(crate) received_at: Timestamp,
    pub(crate) decided_at: Timestamp,
    pub(crate) incident_id: Option<IncidentId>,
}

/// The inbox's record; for an update that repeated another one, that one's.
pub(crate) async fn record(database: &Pool, id: UpdateId) -> Result<Option<Record>, sqlx::Error> {
    sqlx::query_as(
        "SELECT i.id, i.outcome, i.reason, i.component_id, i.impact, i.received_at, i.decided_at,
            i.incident_id,
            (SELECT json_build_object('id', c.id, 'name', sdb_readable(c.name), 'attributes', coalesce(
                (SELECT json_agg(json_build_object(
                        'name', sdb_readable(a.name), 'value', sdb_readable(a.value)) ORDER BY a.id)
                    FROM component_attribute a WHERE a.component_id = c.id), '[]'))
                FROM component c WHERE c.id = i.component_id) AS component
        FROM sdb_inbox asked
        JOIN sdb_inbox i ON i.id = CASE asked.outcome WHEN 'repeated' THEN asked.original ELSE asked.id END
        WHERE asked.id = $1",
    )
    .bind(id)
    .fetch_optional(&database.now().await)
    .await
}

/// Why and when an update was parked, if it is parked.
pub(crate) async fn parked(
    database: &Pool,
    id: UpdateId,
) -> Result<Option<(String, Timestamp)>, sqlx::Error> {
    sqlx::query_as(concat!(
        "SELECT reason, parked_at FROM sdb_parked WHERE update_id = $1 AND ",
        shared::is_parked!(),
    ))
    .bind(id)
    .fetch_optional(&database.now().await)
    .await
}

/// Whether an update that was made then, and that is not known, may still come: it is neither older than the
/// inbox keeps updates, nor further ahead than clocks may differ.
pub(crate) async fn may_come(
    database: &Pool,
    made_at: Timestamp,
    inbox_days: u32,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        // An id of a gateway of an earlier version, or of another database server, may be ahead.
        "SELECT $1 BETWEEN now - make_interval(days => $2) AND now + make_interval(secs => $3)
        FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) AS clock",
    )
    .bind(made_at)
    .bind(inbox_days as i32)
    .bind((clock::TOLERATED / 1_000_000) as f64)
    .fetch_one(&database.now().await)
    .await
}
