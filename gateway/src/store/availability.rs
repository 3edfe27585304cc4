//! When components had an outage.

use shared::domain::{component::ComponentId, timestamp::Timestamp};
use sqlx::{FromRow, PgConnection};

/// A component and its outages.
#[derive(FromRow)]
pub(crate) struct Outages {
    pub(crate) id: ComponentId,
    pub(crate) name: String,
    /// The value of its attribute `region`; empty if it has none.
    pub(crate) region: String,
    /// When each began, the earliest first.
    pub(crate) began: Vec<Timestamp>,
    /// When each ended; one that goes on ends now.
    pub(crate) ended: Vec<Timestamp>,
}

pub(crate) type Rows = sqlx::query::QueryAs<
    'static,
    sqlx::Postgres,
    Outages,
    <sqlx::Postgres as sqlx::Database>::Arguments,
>;

/// All components in order of their ids, each with its outages between two times.
pub(crate) fn outages(from: Timestamp, now: Timestamp) -> Rows {
    sqlx::query_as(
        "SELECT c.id, sdb_readable(c.name) AS name,
            coalesce((SELECT sdb_readable(value) FROM component_attribute
                WHERE component_id = c.id AND name = 'region' ORDER BY id LIMIT 1), '') AS region,
            coalesce(a.began, '{}') AS began, coalesce(a.ended, '{}') AS ended
        FROM component c LEFT JOIN (
            SELECT component_id, array_agg(greatest(began, $1) ORDER BY began, ended) AS began,
                array_agg(least(ended, $2) ORDER BY began, ended) AS ended
            FROM sdb_affected_interval
            -- An outage; as a number, so that the index of outages can be used.
            WHERE impact >= 3 AND began < $2 AND (ended IS NULL OR ended > $1)
            GROUP BY component_id
        ) AS a ON a.component_id = c.id
        ORDER BY c.id",
    )
    .bind(from)
    .bind(now)
}

/// The time of the database, and whether outages may be missing: `worker migrate` has not compared all incidents yet.
pub(crate) async fn now(database: &mut PgConnection) -> Result<(Timestamp, bool), sqlx::Error> {
    sqlx::query_as(
        "SELECT clock_timestamp() AT TIME ZONE 'UTC', EXISTS (SELECT FROM sdb_affected_pending)",
    )
    .fetch_one(database)
    .await
}
