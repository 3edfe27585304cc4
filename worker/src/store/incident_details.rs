//! Incidents and maintenances with their components and updates, as an operator's commands show them.

use shared::domain::{component::ComponentId, incident::IncidentId, timestamp::Timestamp};
use sqlx::{FromRow, PgConnection};

/// An incident; `times`, `statuses` and `texts` are its updates, newest first.
#[derive(FromRow)]
pub(crate) struct IncidentDetails {
    pub(crate) id: IncidentId,
    pub(crate) text: String,
    pub(crate) impact: i16,
    pub(crate) start_date: Timestamp,
    pub(crate) end_date: Option<Timestamp>,
    pub(crate) system: bool,
    /// In order.
    pub(crate) components: Vec<ComponentId>,
    pub(crate) times: Vec<Timestamp>,
    pub(crate) statuses: Vec<String>,
    pub(crate) texts: Vec<String>,
}

/// Selects [`IncidentDetails`] for those incidents `i` for which a condition holds, newest start first.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT i.id, sdb_readable(i.text) AS text, i.impact, i.start_date, i.end_date, i.system,
                ARRAY(SELECT component_id FROM incident_component_relation r
                    WHERE r.incident_id = i.id ORDER BY component_id) AS components,
                u.times, u.statuses, u.texts
            FROM incident i LEFT JOIN LATERAL (SELECT
                    coalesce(array_agg(\"timestamp\" ORDER BY \"timestamp\" DESC, id DESC), '{}')
                        AS times,
                    coalesce(array_agg(sdb_readable(status) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                        AS statuses,
                    coalesce(array_agg(sdb_readable(text) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                        AS texts
                FROM incident_status WHERE incident_id = i.id) AS u ON true
            WHERE ",
            $condition,
            " ORDER BY i.start_date DESC, i.id DESC"
        )
    };
}

/// The database's clock.
pub(crate) async fn now(database: &mut PgConnection) -> Result<Timestamp, sqlx::Error> {
    let clock = "SELECT clock_timestamp() AT TIME ZONE 'UTC'";
    sqlx::query_scalar(clock).fetch_one(database).await
}

/// Those that are active or scheduled at a time. Other programs may write unknown impacts.
pub(crate) async fn read_open(
    database: &mut PgConnection,
    now: Timestamp,
) -> Result<Vec<IncidentDetails>, sqlx::Error> {
    sqlx::query_as(select!("(i.end_date IS NULL OR i.end_date > $1) AND i.impact BETWEEN 0 AND 3"))
        .bind(now)
        .fetch_all(database)
        .await
}

/// One of them, also a closed one.
pub(crate) async fn read(
    database: &mut PgConnection,
    id: IncidentId,
) -> Result<Option<IncidentDetails>, sqlx::Error> {
    sqlx::query_as(select!("i.id = $1")).bind(id).fetch_optional(database).await
}
