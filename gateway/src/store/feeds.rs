//! Incidents for feeds.

use shared::{component::ComponentId, database};
use sqlx::{AssertSqlSafe, PgConnection};

use super::incidents::{COLUMNS, Incident, UPDATES};

/// Incidents in a feed of more than one component.
const MOST: i64 = 10;

/// What a feed is about.
#[derive(Clone, Debug)]
pub(crate) enum FeedOf {
    All,
    Region(String),
    /// The component with this name in this region.
    Component(String, String),
}

/// The incidents, newest start first: the newest of all or of a region, or all of a component. None if there is no
/// such region or component.
///
/// # Errors
/// When the database fails.
pub(crate) async fn incidents(
    database: &mut PgConnection,
    of: &FeedOf,
) -> Result<Option<Vec<Incident>>, sqlx::Error> {
    let components = match components(database, of).await {
        // No row has a text that the database can't store.
        Err(error) if database::lacks_characters(&error) => Some(Vec::new()),
        components => components?,
    };
    if components.as_ref().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    let limit = if matches!(of, FeedOf::Component(..)) { None } else { Some(MOST) };
    let statement = format!(
        "SELECT {COLUMNS} FROM (
            SELECT * FROM incident i WHERE $1::integer[] IS NULL
                OR EXISTS (SELECT FROM incident_component_relation r
                    WHERE r.incident_id = i.id AND r.component_id = ANY($1))
            ORDER BY i.start_date DESC, i.id DESC LIMIT $2
        ) AS i {UPDATES} ORDER BY i.start_date DESC, i.id DESC"
    );
    let rows = sqlx::query_as(AssertSqlSafe(statement)).bind(components).bind(limit);
    Ok(Some(rows.fetch_all(database).await?))
}

/// The components that a feed is about; none for all.
async fn components(
    database: &mut PgConnection,
    of: &FeedOf,
) -> Result<Option<Vec<ComponentId>>, sqlx::Error> {
    let (region, name) = match of {
        FeedOf::All => return Ok(None),
        FeedOf::Region(region) => (region, None),
        FeedOf::Component(name, region) => (region, Some(name)),
    };
    sqlx::query_scalar(
        "SELECT c.id FROM component c WHERE ($2::text IS NULL OR c.name = $2)
            AND EXISTS (SELECT FROM component_attribute a
                WHERE a.component_id = c.id AND a.name = 'region' AND a.value = $1)
        ORDER BY c.id",
    )
    .bind(region)
    .bind(name)
    .fetch_all(database)
    .await
    .map(Some)
}
