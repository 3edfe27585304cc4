//! Incidents for feeds.

use shared::{database, domain::component::ComponentId};
use sqlx::{AssertSqlSafe, PgConnection};

use super::incidents::{COLUMNS, Rows, UPDATES};

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

/// Which incidents a feed has.
pub(crate) struct FeedSelection {
    /// None for all.
    components: Option<Vec<ComponentId>>,
    limit: Option<i64>,
}

impl FeedSelection {
    /// The newest of all or of a region, or all of a component. None if there is no such region or component.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn read(
        database: &mut PgConnection,
        of: &FeedOf,
    ) -> Result<Option<Self>, sqlx::Error> {
        let components = match components(database, of).await {
            // No row has a text that the database can't store.
            Err(error) if database::lacks_characters(&error) => Some(Vec::new()),
            components => components?,
        };
        if components.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let limit = (!matches!(of, FeedOf::Component(..))).then_some(MOST);
        Ok(Some(Self { components, limit }))
    }

    /// The incidents, newest start first. The statement has only the condition that is asked for, so that the plan
    /// can use its index.
    pub(crate) fn rows(self) -> Rows {
        let condition = match self.components {
            Some(_) => {
                "i.id IN (SELECT r.incident_id FROM incident_component_relation r
                    WHERE r.component_id = ANY($2))"
            }
            None => "$2::integer[] IS NULL",
        };
        let statement = format!(
            "SELECT {COLUMNS} FROM (
                SELECT * FROM incident i WHERE {condition}
                ORDER BY i.start_date DESC, i.id DESC LIMIT $1
            ) AS i {UPDATES} ORDER BY i.start_date DESC, i.id DESC"
        );
        sqlx::query_as(AssertSqlSafe(statement)).bind(self.limit).bind(self.components)
    }
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
