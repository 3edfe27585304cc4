//! The statements that apply a catalogue file.
//!
//! A fixed number of statements, however many components there are.

use shared::domain::{
    component::{Attribute, ComponentId},
    incident::IncidentId,
};
use sqlx::{FromRow, PgConnection};

use super::state_lock::ScopeGuard;

/// A component with the incidents that have it, newest first.
pub(crate) type InIncidents = (ComponentId, Vec<IncidentId>);

/// How many characters the columns of attributes take; none where they take any number. The lengths
/// differ between the two forms of the Python dashboard's tables.
#[derive(Clone, Copy, FromRow)]
pub(crate) struct LengthLimits {
    pub(crate) name: Option<i32>,
    pub(crate) value: Option<i32>,
}

/// Waits until no other transaction applies a catalogue, and excludes others until this one ends: two
/// concurrent ones would add the same components twice.
///
/// # Errors
/// When the lock is not free within `lock_timeout`, or the database fails.
pub(crate) async fn lock(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sdb_catalogue'))")
        .execute(transaction)
        .await?;
    Ok(())
}

/// Counts the changes of components and attributes that were committed.
///
/// # Errors
/// When the database fails, or is not prepared (`undefined_table`).
pub(crate) async fn version(database: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT catalogue FROM sdb_version").fetch_one(database).await
}

/// How long texts may be.
pub(crate) async fn length_limits(
    database: &mut PgConnection,
) -> Result<LengthLimits, sqlx::Error> {
    sqlx::query_as(
        "SELECT
            (SELECT nullif(atttypmod, -1) - 4 FROM pg_attribute
                WHERE attrelid = 'component_attribute'::regclass AND attname = 'name') AS name,
            (SELECT nullif(atttypmod, -1) - 4 FROM pg_attribute
                WHERE attrelid = 'component_attribute'::regclass AND attname = 'value') AS value",
    )
    .fetch_one(database)
    .await
}

/// Which of these components have an incident or a maintenance that is active now.
pub(crate) async fn in_active_incidents(
    database: &mut PgConnection,
    components: &[ComponentId],
) -> Result<Vec<InIncidents>, sqlx::Error> {
    sqlx::query_as(
        "SELECT r.component_id, array_agg(i.id ORDER BY i.id DESC)
        FROM incident_component_relation r JOIN incident i ON i.id = r.incident_id
        WHERE r.component_id = ANY($1) AND (i.end_date IS NULL AND i.system
            OR i.start_date <= clock_timestamp() AT TIME ZONE 'UTC'
                AND (i.end_date IS NULL OR i.end_date > clock_timestamp() AT TIME ZONE 'UTC'))
        GROUP BY r.component_id ORDER BY r.component_id",
    )
    .bind(components)
    .fetch_all(database)
    .await
}

/// Which of these components have any incident, closed ones included.
pub(crate) async fn in_any_incidents(
    database: &mut PgConnection,
    components: &[ComponentId],
) -> Result<Vec<InIncidents>, sqlx::Error> {
    sqlx::query_as(
        "SELECT component_id, array_agg(incident_id ORDER BY incident_id DESC)
        FROM incident_component_relation WHERE component_id = ANY($1)
        GROUP BY component_id ORDER BY component_id",
    )
    .bind(components)
    .fetch_all(database)
    .await
}

/// Adds components without attributes; returns their ids in the order of the names.
pub(crate) async fn add(
    transaction: &mut PgConnection,
    names: &[&str],
) -> Result<Vec<ComponentId>, sqlx::Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids: Vec<ComponentId> = sqlx::query_scalar(
        "SELECT nextval(pg_get_serial_sequence('component', 'id'))::integer
        FROM generate_series(1, $1)",
    )
    .bind(names.len() as i64)
    .fetch_all(&mut *transaction)
    .await?;
    ids.sort_unstable();
    sqlx::query(
        "INSERT INTO component (id, name) SELECT * FROM unnest($1::integer[], $2::varchar[])",
    )
    .bind(&ids)
    .bind(names)
    .execute(transaction)
    .await?;
    Ok(ids)
}

/// Adds attributes in this order, which is that of their ids.
pub(crate) async fn add_attributes(
    transaction: &mut PgConnection,
    attributes: impl Iterator<Item = (ComponentId, &Attribute)>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (id, Attribute { name, value }) in attributes {
        ids.push(id);
        names.push(name.as_str());
        values.push(value.as_str());
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO component_attribute (component_id, name, value)
        SELECT component_id, name, value
        FROM unnest($1::integer[], $2::varchar[], $3::varchar[])
            WITH ORDINALITY AS new (component_id, name, value, place)
        ORDER BY place",
    )
    .bind(ids)
    .bind(names)
    .bind(values)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Deletes all attributes of components.
pub(crate) async fn delete_attributes(
    transaction: &mut PgConnection,
    components: &[ComponentId],
) -> Result<(), sqlx::Error> {
    if components.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM component_attribute WHERE component_id = ANY($1)")
        .bind(components)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Locks components that are to be renamed or deleted, so that the Python dashboard can't put one into an
/// incident meanwhile. False when one does not exist any more.
///
/// # Errors
/// When other transactions hold one for longer than `lock_timeout`, or the database fails.
pub(crate) async fn lock_components(
    scope: &mut ScopeGuard<'_>,
    components: &[ComponentId],
) -> Result<bool, sqlx::Error> {
    let locked = sqlx::query("SELECT FROM component WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind(components)
        .execute(scope.session())
        .await?;
    Ok(locked.rows_affected() == components.len() as u64)
}

/// Renames components.
pub(crate) async fn rename(
    scope: &mut ScopeGuard<'_>,
    components: &[(ComponentId, &str)],
) -> Result<(), sqlx::Error> {
    if components.is_empty() {
        return Ok(());
    }
    let (ids, names): (Vec<ComponentId>, Vec<&str>) = components.iter().copied().unzip();
    sqlx::query(
        "UPDATE component SET name = new.name
        FROM unnest($1::integer[], $2::varchar[]) AS new (id, name) WHERE component.id = new.id",
    )
    .bind(ids)
    .bind(names)
    .execute(scope.session())
    .await?;
    Ok(())
}

/// Deletes components with their attributes.
///
/// # Errors
/// When the database fails, or when an incident has one of the components; the transaction is rolled back.
pub(crate) async fn delete(
    scope: &mut ScopeGuard<'_>,
    components: &[ComponentId],
) -> Result<(), sqlx::Error> {
    if components.is_empty() {
        return Ok(());
    }
    delete_attributes(scope.session(), components).await?;
    sqlx::query("DELETE FROM component WHERE id = ANY($1)")
        .bind(components)
        .execute(scope.session())
        .await?;
    Ok(())
}
