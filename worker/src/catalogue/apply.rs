//! Writes what a catalogue file changes.
//!
//! A handful of statements, however many components there are. What is only added or moved to another
//! category needs no lock of the workers'. To rename and to remove, the scope's lock is taken last, for
//! a fixed number of statements.

use std::collections::HashMap;

use shared::{
    component::{Attribute, Component, ComponentId},
    database::components,
    incident::IncidentId,
    shorten::shorten,
};
use sqlx::{Connection, PgConnection};

use super::{CatalogueError, Changed, Entry, Plan};
use crate::store::scope_lock;

/// Components that a refusal names, and incidents of each, at most.
const NAMED_COMPONENTS: usize = 20;
const NAMED_INCIDENTS: usize = 5;
/// How often it is tried when others change components meanwhile.
const ATTEMPTS: usize = 5;
/// Characters of a text of the file in an error message, at most.
const QUOTED: usize = 60;
/// PostgreSQL's code for a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

/// How a catalogue is applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Only the plan is made, and nothing changed.
    pub dry_run: bool,
    /// Components that the file does not have are removed.
    pub prune: bool,
}

/// Applies a catalogue in one transaction and returns what it did, or would do. Applying it again
/// does nothing.
///
/// # Errors
/// When a text does not fit its column, when a `renamed-from` is not clear, when a component that is
/// to be renamed has active incidents or one that is to go has any, or when the database fails; nothing
/// was applied then.
pub async fn apply(
    database: &mut PgConnection,
    entries: Vec<Entry>,
    how: How,
) -> Result<Plan, CatalogueError> {
    for _ in 0..ATTEMPTS {
        if let Some(plan) = attempt(database, &entries, how).await? {
            return Ok(plan);
        }
    }
    Err(CatalogueError::Contended)
}

/// Returns nothing, with nothing changed, when somebody else changed components since they were read.
async fn attempt(
    database: &mut PgConnection,
    entries: &[Entry],
    how: How,
) -> Result<Option<Plan>, CatalogueError> {
    let mut transaction = database.begin().await?;
    // Two operators at once would both add what both find missing.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sdb_catalogue'))")
        .execute(&mut *transaction)
        .await?;
    check_lengths(&mut transaction, entries).await?;
    // Before the components: a change between the two is noticed later.
    let version = version(&mut transaction).await?;
    let mut plan = Plan::new(components::read_all(&mut transaction).await?, entries.to_vec())?;
    if how.prune {
        plan.remove = std::mem::take(&mut plan.stay);
    }
    if how.dry_run {
        check(&mut transaction, &plan).await?;
        transaction.rollback().await?;
        return Ok(Some(plan));
    }
    add(&mut transaction, &plan.add).await?;
    write_attributes(&mut transaction, &plan.change).await?;
    if (!plan.rename.is_empty() || !plan.remove.is_empty())
        && !rename_and_remove(&mut transaction, &plan, version).await?
    {
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.commit().await?;
    Ok(Some(plan))
}

/// Counts the changes of components and attributes that were committed.
async fn version(database: &mut PgConnection) -> Result<i64, CatalogueError> {
    let version = sqlx::query_scalar("SELECT catalogue FROM sdb_version").fetch_one(database).await;
    version.map_err(|error| {
        let code = error.as_database_error().and_then(|error| error.code());
        if code.as_deref() == Some(UNDEFINED_TABLE) {
            CatalogueError::Unprepared
        } else {
            CatalogueError::Database(error)
        }
    })
}

/// Returns whether it could be done: whether the components are those that the plan was made for.
///
/// No worker decides about a component while it goes or becomes another: those that wait find it as it
/// is then. Nor does the Python dashboard put it into an incident, since its row is locked.
async fn rename_and_remove(
    database: &mut PgConnection,
    plan: &Plan,
    planned_for: i64,
) -> Result<bool, CatalogueError> {
    let ids: Vec<ComponentId> = ids(&plan.remove).chain(renamed(plan)).collect();
    scope_lock::lock(database).await?;
    let locked = sqlx::query("SELECT FROM component WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind(&ids)
        .execute(&mut *database)
        .await?;
    // Once they are locked: somebody may have changed one who was waited for.
    if locked.rows_affected() != ids.len() as u64 || version(database).await? != planned_for {
        return Ok(false);
    }
    check(database, plan).await?;
    write_names(database, &plan.rename).await?;
    write_attributes(database, &plan.rename).await?;
    remove(database, &plan.remove).await?;
    Ok(true)
}

fn ids(components: &[Component]) -> impl Iterator<Item = ComponentId> {
    components.iter().map(|component| component.id)
}

fn renamed(plan: &Plan) -> impl Iterator<Item = ComponentId> {
    plan.rename.iter().map(|changed| changed.before.id)
}

/// Refuses to rename what is shown to be in trouble at this moment, and to remove what any incident has,
/// closed ones included: they are history.
async fn check(database: &mut PgConnection, plan: &Plan) -> Result<(), CatalogueError> {
    let active: Vec<(ComponentId, Vec<IncidentId>)> = sqlx::query_as(
        "SELECT r.component_id, array_agg(i.id ORDER BY i.id DESC)
        FROM incident_component_relation r JOIN incident i ON i.id = r.incident_id
        WHERE r.component_id = ANY($1) AND (i.end_date IS NULL AND i.system
            OR i.start_date <= clock_timestamp() AT TIME ZONE 'UTC'
                AND (i.end_date IS NULL OR i.end_date > clock_timestamp() AT TIME ZONE 'UTC'))
        GROUP BY r.component_id ORDER BY r.component_id",
    )
    .bind(renamed(plan).collect::<Vec<_>>())
    .fetch_all(&mut *database)
    .await?;
    if !active.is_empty() {
        let named = named(active, plan.rename.iter().map(|changed| &changed.before));
        return Err(CatalogueError::Active(named));
    }
    let used: Vec<(ComponentId, Vec<IncidentId>)> = sqlx::query_as(
        "SELECT component_id, array_agg(incident_id ORDER BY incident_id DESC)
        FROM incident_component_relation WHERE component_id = ANY($1)
        GROUP BY component_id ORDER BY component_id",
    )
    .bind(ids(&plan.remove).collect::<Vec<_>>())
    .fetch_all(database)
    .await?;
    if !used.is_empty() {
        return Err(CatalogueError::InIncidents(named(used, plan.remove.iter())));
    }
    Ok(())
}

/// Components with the incidents that have them, the newest first; of many the first ones.
fn named<'a>(
    found: Vec<(ComponentId, Vec<IncidentId>)>,
    components: impl Iterator<Item = &'a Component>,
) -> String {
    let components: HashMap<ComponentId, &Component> =
        components.map(|component| (component.id, component)).collect();
    let mut named: Vec<String> = found
        .iter()
        .take(NAMED_COMPONENTS)
        .filter_map(|(id, incidents)| {
            let mut named: Vec<String> =
                incidents.iter().take(NAMED_INCIDENTS).map(ToString::to_string).collect();
            let more = incidents.len() - named.len();
            if more > 0 {
                named.push(format!("{more} more"));
            }
            Some(format!("{} in {}", components.get(id)?.short_label(), named.join(", ")))
        })
        .collect();
    let more = found.len().saturating_sub(NAMED_COMPONENTS);
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join("; ")
}

/// Adds components, with ids in the file's order.
async fn add(database: &mut PgConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<ComponentId> = sqlx::query_scalar(
        "SELECT nextval(pg_get_serial_sequence('component', 'id'))::integer
        FROM generate_series(1, $1)",
    )
    .bind(entries.len() as i64)
    .fetch_all(&mut *database)
    .await?;
    ids.sort_unstable();
    sqlx::query(
        "INSERT INTO component (id, name) SELECT * FROM unnest($1::integer[], $2::varchar[])",
    )
    .bind(&ids)
    .bind(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>())
    .execute(&mut *database)
    .await?;
    add_attributes(database, ids.into_iter().zip(entries)).await
}

/// Adds attributes, in the file's order: it is that of their ids.
async fn add_attributes(
    database: &mut PgConnection,
    components: impl Iterator<Item = (ComponentId, &Entry)>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (id, entry) in components {
        for Attribute { name, value } in &entry.attributes {
            ids.push(id);
            names.push(name.as_str());
            values.push(value.as_str());
        }
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
    .execute(database)
    .await?;
    Ok(())
}

/// Writes the attributes of components anew, since their order is that of their ids.
async fn write_attributes(
    database: &mut PgConnection,
    changed: &[Changed],
) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let ids: Vec<ComponentId> = changed.iter().map(|changed| changed.before.id).collect();
    sqlx::query("DELETE FROM component_attribute WHERE component_id = ANY($1)")
        .bind(ids)
        .execute(&mut *database)
        .await?;
    add_attributes(database, changed.iter().map(|c| (c.before.id, &c.after))).await
}

async fn write_names(database: &mut PgConnection, renamed: &[Changed]) -> Result<(), sqlx::Error> {
    let renamed = || renamed.iter().filter(|changed| changed.before.name != changed.after.name);
    let ids: Vec<ComponentId> = renamed().map(|changed| changed.before.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE component SET name = new.name
        FROM unnest($1::integer[], $2::varchar[]) AS new (id, name) WHERE component.id = new.id",
    )
    .bind(ids)
    .bind(renamed().map(|changed| changed.after.name.as_str()).collect::<Vec<_>>())
    .execute(database)
    .await?;
    Ok(())
}

async fn remove(database: &mut PgConnection, components: &[Component]) -> Result<(), sqlx::Error> {
    if components.is_empty() {
        return Ok(());
    }
    let ids: Vec<ComponentId> = ids(components).collect();
    for statement in [
        "DELETE FROM component_attribute WHERE component_id = ANY($1)",
        "DELETE FROM component WHERE id = ANY($1)",
    ] {
        sqlx::query(statement).bind(&ids).execute(&mut *database).await?;
    }
    Ok(())
}

/// The columns' lengths differ between the two forms of the Python dashboard's tables.
async fn check_lengths(
    database: &mut PgConnection,
    entries: &[Entry],
) -> Result<(), CatalogueError> {
    let (name_limit, value_limit): (Option<i32>, Option<i32>) = sqlx::query_as(
        "SELECT
            (SELECT nullif(atttypmod, -1) - 4 FROM pg_attribute
                WHERE attrelid = 'component_attribute'::regclass AND attname = 'name'),
            (SELECT nullif(atttypmod, -1) - 4 FROM pg_attribute
                WHERE attrelid = 'component_attribute'::regclass AND attname = 'value')",
    )
    .fetch_one(database)
    .await?;
    let too_long = |text: &str, limit: Option<i32>| {
        limit.is_some_and(|limit| text.chars().count() > limit.unsigned_abs() as usize)
    };
    for Entry { line, attributes, .. } in entries {
        for Attribute { name, value } in attributes {
            for (text, limit) in [(name, name_limit), (value, value_limit)] {
                if too_long(text, limit) {
                    return Err(CatalogueError::Nonsense {
                        line: *line,
                        reason: format!(
                            "`{}` is longer than the {} characters that the database takes",
                            shorten(text, QUOTED),
                            limit.unwrap_or_default()
                        ),
                    });
                }
            }
        }
    }
    Ok(())
}
