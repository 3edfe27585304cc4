//! Reads the catalogue from the database.

use sqlx::PgConnection;

use crate::domain::component::{Attribute, Component, ComponentId};

/// A component with the names and the values of its attributes, in catalogue order.
macro_rules! select {
    () => {
        "SELECT c.id, sdb_readable(c.name),
            coalesce(array_agg(sdb_readable(a.name) ORDER BY a.id)
                FILTER (WHERE a.id IS NOT NULL), '{}'),
            coalesce(array_agg(sdb_readable(a.value) ORDER BY a.id)
                FILTER (WHERE a.id IS NOT NULL), '{}')
        FROM component c LEFT JOIN component_attribute a ON a.component_id = c.id"
    };
}

/// All components, ordered by id.
///
/// # Errors
/// If the database fails.
pub async fn read_all(database: &mut PgConnection) -> Result<Vec<Component>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(select!(), " GROUP BY c.id, c.name ORDER BY c.id"));
    Ok(rows.fetch_all(database).await?.into_iter().map(component).collect())
}

/// The components with these ids, ordered by id, without those that no longer exist.
///
/// # Errors
/// If the database fails.
pub async fn read(
    database: &mut PgConnection,
    ids: &[ComponentId],
) -> Result<Vec<Component>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(
        select!(),
        " WHERE c.id = ANY($1) GROUP BY c.id, c.name ORDER BY c.id"
    ));
    Ok(rows.bind(ids).fetch_all(database).await?.into_iter().map(component).collect())
}

fn component(row: (ComponentId, String, Vec<String>, Vec<String>)) -> Component {
    let (id, name, names, values) = row;
    let pairs = names.into_iter().zip(values);
    Component {
        id,
        name,
        attributes: pairs.map(|(name, value)| Attribute { name, value }).collect(),
    }
}
