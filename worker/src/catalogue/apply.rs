//! Applies the changes of a catalogue file.
//!
//! A few statements, however many components there are. Additions and changes of category do not need the
//! scope's lock. Before renaming and removing, the scope's lock is taken last, for a fixed number of
//! statements.

use std::collections::HashMap;

use shared::{
    database::{components, sqlstate},
    domain::{
        component::{Attribute, Component, ComponentId},
        shorten::{MAX_QUOTED_CHARS, shorten},
    },
};
use sqlx::{Connection, PgConnection};

use super::{CatalogueEntry, CatalogueError, CataloguePlan, Changed};
use crate::store::{
    catalogue::{self as store, InIncidents},
    state_lock::ScopeGuard,
};

/// Maximum number of components that an error message names, and of incidents of each.
const NAMED_COMPONENTS: usize = 20;
const NAMED_INCIDENTS: usize = 5;
/// Attempts while other transactions change components.
const ATTEMPTS: usize = 5;

/// How a catalogue is applied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ApplyOptions {
    /// Only the plan is made, and nothing changed.
    pub(crate) dry_run: bool,
    /// Components that are not in the file are removed.
    pub(crate) prune: bool,
}

/// Applies a catalogue in one transaction and returns what it did, or would do. Applying it again
/// does nothing.
///
/// # Errors
/// When a text does not fit its column, when a `renamed-from` is ambiguous, when a component to rename
/// has active incidents or one to remove has any, or when the database fails. Nothing was applied then.
pub(crate) async fn apply(
    database: &mut PgConnection,
    entries: Vec<CatalogueEntry>,
    options: ApplyOptions,
) -> Result<CataloguePlan, CatalogueError> {
    for _ in 0..ATTEMPTS {
        if let Some(plan) = attempt(database, &entries, options).await? {
            return Ok(plan);
        }
    }
    Err(CatalogueError::Contended)
}

/// Returns none, with nothing changed, when another transaction changed components since they were read.
async fn attempt(
    database: &mut PgConnection,
    entries: &[CatalogueEntry],
    options: ApplyOptions,
) -> Result<Option<CataloguePlan>, CatalogueError> {
    let mut transaction = database.begin().await?;
    store::lock(&mut transaction).await?;
    check_lengths(&mut transaction, entries).await?;
    // Before the components: a change between the two is noticed later.
    let version = version(&mut transaction).await?;
    let mut plan =
        CataloguePlan::new(components::read_all(&mut transaction).await?, entries.to_vec())?;
    if options.prune {
        plan.remove = std::mem::take(&mut plan.stay);
    }
    if options.dry_run {
        check(&mut transaction, &plan).await?;
        transaction.rollback().await?;
        return Ok(Some(plan));
    }
    add(&mut transaction, &plan.add).await?;
    write_attributes(&mut transaction, &plan.change).await?;
    if plan.rename.is_empty() && plan.remove.is_empty() {
        transaction.commit().await?;
        return Ok(Some(plan));
    }
    let mut scope = ScopeGuard::take(transaction).await?;
    if rename_and_remove(&mut scope, &plan, version).await? {
        scope.commit().await?;
        Ok(Some(plan))
    } else {
        scope.rollback().await?;
        Ok(None)
    }
}

/// The version of the catalogue, where the database is prepared.
async fn version(database: &mut PgConnection) -> Result<i64, CatalogueError> {
    store::version(database).await.map_err(|error| {
        if sqlstate::is(&error, sqlstate::UNDEFINED_TABLE) {
            CatalogueError::Unprepared
        } else {
            CatalogueError::Database(error)
        }
    })
}

/// Returns whether the plan was applied: whether the components are still those that it was made for.
///
/// No worker decides about a component while it is removed or renamed: those that wait see the result.
async fn rename_and_remove(
    scope: &mut ScopeGuard<'_>,
    plan: &CataloguePlan,
    planned_for: i64,
) -> Result<bool, CatalogueError> {
    let removed = ids(&plan.remove);
    let all: Vec<ComponentId> = removed.iter().copied().chain(renamed(plan)).collect();
    // Read after they are locked: a concurrent writer may have changed one.
    if !store::lock_components(scope, &all).await? || version(scope.session()).await? != planned_for
    {
        return Ok(false);
    }
    check(scope.session(), plan).await?;
    let renamed = plan.rename.iter().filter(|changed| changed.before.name != changed.after.name);
    let names: Vec<(ComponentId, &str)> =
        renamed.map(|changed| (changed.before.id, changed.after.name.as_str())).collect();
    store::rename(scope, &names).await?;
    write_attributes(scope.session(), &plan.rename).await?;
    store::delete(scope, &removed).await?;
    Ok(true)
}

fn ids(components: &[Component]) -> Vec<ComponentId> {
    components.iter().map(|component| component.id).collect()
}

fn renamed(plan: &CataloguePlan) -> impl Iterator<Item = ComponentId> {
    plan.rename.iter().map(|changed| changed.before.id)
}

/// Refuses to rename components with active incidents, and to remove components with any incident,
/// because closed ones are history.
async fn check(database: &mut PgConnection, plan: &CataloguePlan) -> Result<(), CatalogueError> {
    let renamed: Vec<ComponentId> = renamed(plan).collect();
    let active = store::in_active_incidents(database, &renamed).await?;
    if !active.is_empty() {
        let named = named(active, plan.rename.iter().map(|changed| &changed.before));
        return Err(CatalogueError::Active(named));
    }
    let used = store::in_any_incidents(database, &ids(&plan.remove)).await?;
    if !used.is_empty() {
        return Err(CatalogueError::InIncidents(named(used, plan.remove.iter())));
    }
    Ok(())
}

/// Components with the incidents that have them, the newest first; of many the first ones.
fn named<'a>(found: Vec<InIncidents>, components: impl Iterator<Item = &'a Component>) -> String {
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
async fn add(database: &mut PgConnection, entries: &[CatalogueEntry]) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let ids = store::add(database, &names).await?;
    store::add_attributes(database, attributes(ids.into_iter().zip(entries))).await
}

/// Rewrites the attributes of components, because their order is that of their ids.
async fn write_attributes(
    database: &mut PgConnection,
    changed: &[Changed],
) -> Result<(), sqlx::Error> {
    let ids: Vec<ComponentId> = changed.iter().map(|changed| changed.before.id).collect();
    store::delete_attributes(database, &ids).await?;
    let changed = changed.iter().map(|changed| (changed.before.id, &changed.after));
    store::add_attributes(database, attributes(changed)).await
}

/// Each attribute with its component, in the file's order.
fn attributes<'a>(
    components: impl Iterator<Item = (ComponentId, &'a CatalogueEntry)>,
) -> impl Iterator<Item = (ComponentId, &'a Attribute)> {
    components.flat_map(|(id, entry)| entry.attributes.iter().map(move |a| (id, a)))
}

/// Refuses texts that are longer than their columns.
async fn check_lengths(
    database: &mut PgConnection,
    entries: &[CatalogueEntry],
) -> Result<(), CatalogueError> {
    let limits = store::length_limits(database).await?;
    let too_long = |text: &str, limit: Option<i32>| {
        limit.is_some_and(|limit| text.chars().count() > limit.unsigned_abs() as usize)
    };
    for CatalogueEntry { line, attributes, .. } in entries {
        for Attribute { name, value } in attributes {
            for (text, limit) in [(name, limits.name), (value, limits.value)] {
                if too_long(text, limit) {
                    return Err(CatalogueError::Invalid {
                        line: *line,
                        reason: format!(
                            "`{}` is longer than the {} characters that the database takes",
                            shorten(text, MAX_QUOTED_CHARS),
                            limit.unwrap_or_default()
                        ),
                    });
                }
            }
        }
    }
    Ok(())
}
