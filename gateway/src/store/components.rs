//! Components with their incidents, as lists show them.

use shared::{
    database,
    domain::component::{Attribute, ComponentId},
};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, postgres::PgArguments, query::Query};

use super::incidents::{ACTIVE_NOW, COLUMNS, UPDATES};

/// Which components are read.
#[derive(Debug)]
pub(crate) enum ComponentFilter {
    /// Those whose name begins with it.
    Prefix(String),
    /// Those with this attribute.
    With(Attribute),
    /// The one with this name and this attribute, shown as one object.
    One(String, Attribute),
}

/// A query for components, with one row for each incident of each.
pub(crate) struct ComponentSelection {
    statement: String,
    first: Option<String>,
    second: Option<String>,
}

impl ComponentSelection {
    /// The components with all of their incidents or only the active ones; none if the filter names one that
    /// does not exist.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn of(
        database: &mut PgConnection,
        which: ComponentFilter,
        active: bool,
    ) -> Result<Option<Self>, sqlx::Error> {
        let (condition, first, second) = match which {
            ComponentFilter::Prefix(prefix) => {
                ("starts_with(c.name, $1) AND $2::text IS NULL", Some(prefix), None)
            }
            ComponentFilter::With(Attribute { name, value }) => (
                "EXISTS (SELECT FROM component_attribute a
                    WHERE a.component_id = c.id AND a.name = $1 AND a.value = $2)",
                Some(name),
                Some(value),
            ),
            ComponentFilter::One(name, attribute) => {
                let found = match find(database, &name, &attribute).await {
                    Err(error) if database::lacks_characters(&error) => None,
                    found => found?,
                };
                let Some(id) = found else { return Ok(None) };
                ("c.id = $1::integer AND $2::text IS NULL", Some(id.to_string()), None)
            }
        };
        let condition_on_incidents = if active { ACTIVE_NOW } else { "true" };
        let statement = format!(
            "SELECT c.id AS component_id, sdb_readable(c.name) AS component_name,
                (SELECT coalesce(json_agg(json_build_object('name', sdb_readable(a.name),
                    'value', sdb_readable(a.value)) ORDER BY a.id), '[]')
                FROM component_attribute a WHERE a.component_id = c.id) AS attributes,
                {COLUMNS}
            FROM component c
            LEFT JOIN (incident_component_relation r JOIN incident i
                ON i.id = r.incident_id AND {condition_on_incidents}) ON r.component_id = c.id
            {UPDATES}
            WHERE {condition} ORDER BY c.id, i.start_date DESC, i.id DESC"
        );
        Ok(Some(Self { statement, first, second }))
    }

    /// The statement with its values.
    pub(crate) fn rows(self) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(AssertSqlSafe(self.statement)).bind(self.first).bind(self.second)
    }
}

/// The lowest id of the components with exactly this name and this attribute.
async fn find(
    database: &mut PgConnection,
    name: &str,
    attribute: &Attribute,
) -> Result<Option<ComponentId>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT c.id FROM component c JOIN component_attribute a ON a.component_id = c.id
        WHERE c.name = $1 AND a.name = $2 AND a.value = $3 ORDER BY c.id LIMIT 1",
    )
    .bind(name)
    .bind(&attribute.name)
    .bind(&attribute.value)
    .fetch_optional(database)
    .await
}
