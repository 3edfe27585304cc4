//! Compares a catalogue file with the database: finds the component that each entry refers to.
//!
//! All attributes except `category` distinguish components of the same name. An entry refers to 1. the
//! component with its name and exactly its attributes; 2. failing that, the one that differs in nothing
//! but `category`, if in the database and in the file it is the only one with this name and these other
//! attributes; 3. failing that, the one that its `renamed-from` names, if no other entry means that one;
//! 4. failing that, a component that is not there yet.
//!
//! So the file of one region never changes the components of another, and a file that was applied before
//! changes nothing: renamed components are found by 1.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use shared::domain::component::{Attribute, ByName, Component, ComponentId, NoComponent};

use super::{CatalogueEntry, CatalogueError, file::FormerIdentity};

/// A component that changes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Changed {
    /// As the database has it.
    pub(crate) before: Component,
    /// As the file has it.
    pub(crate) after: CatalogueEntry,
}

/// What applying a catalogue does.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct CataloguePlan {
    /// Components to add.
    pub(crate) add: Vec<CatalogueEntry>,
    /// Components of which only the category changes.
    pub(crate) change: Vec<Changed>,
    /// Components that are renamed, or get other attributes, since the file says so.
    pub(crate) rename: Vec<Changed>,
    /// Components of the database that the file does not have and that are removed.
    pub(crate) remove: Vec<Component>,
    /// Components of the database that the file does not have and that stay.
    pub(crate) stay: Vec<Component>,
    /// How many are already as the file has them.
    pub(crate) same: usize,
}

/// The component that an entry of the file refers to, and in what the two differ.
#[derive(Clone, Copy)]
enum EntryMatch {
    Same(ComponentId),
    Recategorized(ComponentId),
    Renamed(ComponentId),
    New,
}

impl EntryMatch {
    const fn component(self) -> Option<ComponentId> {
        match self {
            Self::Same(id) | Self::Recategorized(id) | Self::Renamed(id) => Some(id),
            Self::New => None,
        }
    }
}

impl CataloguePlan {
    /// Finds the component of the database that each entry of the file refers to.
    ///
    /// # Errors
    /// When a `renamed-from` could refer to several components, or to that of another entry.
    pub(crate) fn new(
        existing: Vec<Component>,
        entries: Vec<CatalogueEntry>,
    ) -> Result<Self, CatalogueError> {
        let matches = find_matches(&existing, &entries)?;
        let mut plan = Self::default();
        let mut left: BTreeMap<ComponentId, Component> =
            existing.into_iter().map(|component| (component.id, component)).collect();
        for (after, found) in entries.into_iter().zip(matches) {
            let (list, id) = match found {
                EntryMatch::Same(id) => {
                    left.remove(&id);
                    plan.same += 1;
                    continue;
                }
                EntryMatch::New => {
                    plan.add.push(after);
                    continue;
                }
                EntryMatch::Recategorized(id) => (&mut plan.change, id),
                EntryMatch::Renamed(id) => (&mut plan.rename, id),
            };
            list.extend(left.remove(&id).map(|before| Changed { before, after }));
        }
        plan.stay = left.into_values().collect();
        Ok(plan)
    }

    /// Whether an added component may be a renamed one that is not in the file.
    pub(crate) fn may_rename(&self) -> bool {
        let absent: HashSet<&str> =
            self.stay.iter().chain(&self.remove).map(|component| component.name.as_str()).collect();
        self.add.iter().any(|e| e.renamed_from.is_none() && absent.contains(e.name.as_str()))
    }
}

/// A name with attributes in a fixed order.
type Key<'a> = (&'a str, Vec<&'a Attribute>);

fn key<'a>(name: &'a str, attributes: impl IntoIterator<Item = &'a Attribute>) -> Key<'a> {
    let mut attributes: Vec<&Attribute> = attributes.into_iter().collect();
    attributes.sort_unstable();
    (name, attributes)
}

/// The identity of a component.
fn identity<'a>(name: &'a str, attributes: &'a [Attribute]) -> Key<'a> {
    key(name, attributes.iter().filter(|attribute| attribute.tells_apart()))
}

fn find_matches(
    existing: &[Component],
    entries: &[CatalogueEntry],
) -> Result<Vec<EntryMatch>, CatalogueError> {
    let mut exact: HashMap<Key<'_>, ComponentId> = HashMap::with_capacity(existing.len());
    // Where several components have the identity, none.
    let mut unique: HashMap<Key<'_>, Option<ComponentId>> = HashMap::with_capacity(existing.len());
    for Component { id, name, attributes } in existing {
        exact.entry(key(name, attributes)).or_insert(*id);
        unique.entry(identity(name, attributes)).and_modify(|one| *one = None).or_insert(Some(*id));
    }
    let mut wanted: HashMap<Key<'_>, usize> = HashMap::with_capacity(entries.len());
    for CatalogueEntry { name, attributes, .. } in entries {
        *wanted.entry(identity(name, attributes)).or_default() += 1;
    }
    let mut matches: Vec<EntryMatch> = entries
        .iter()
        .map(|CatalogueEntry { name, attributes, .. }| {
            if let Some(id) = exact.get(&key(name, attributes)) {
                return EntryMatch::Same(*id);
            }
            let identity = identity(name, attributes);
            match unique.get(&identity) {
                Some(Some(id)) if wanted.get(&identity) == Some(&1) => {
                    EntryMatch::Recategorized(*id)
                }
                _ => EntryMatch::New,
            }
        })
        .collect();
    find_renamed(existing, entries, &mut matches)?;
    Ok(matches)
}

/// Finds the components that entries name by a former name.
fn find_renamed(
    existing: &[Component],
    entries: &[CatalogueEntry],
    matches: &mut [EntryMatch],
) -> Result<(), CatalogueError> {
    let is_new = |found: &EntryMatch| matches!(found, EntryMatch::New);
    if !entries.iter().zip(&*matches).any(|(e, found)| is_new(found) && e.renamed_from.is_some()) {
        return Ok(());
    }
    let components = ByName::new(existing.to_vec());
    // The lines of the entries that refer to each component.
    let mut taken: HashMap<ComponentId, u64> = entries
        .iter()
        .zip(&*matches)
        .filter_map(|(entry, found)| Some((found.component()?, entry.line)))
        .collect();
    for (entry, found) in entries.iter().zip(matches) {
        let (EntryMatch::New, Some(former)) = (&found, &entry.renamed_from) else { continue };
        let invalid = |reason| CatalogueError::Invalid { line: entry.line, reason };
        let Some(component) = renamed(&components, former).map_err(invalid)? else { continue };
        if let Some(line) = taken.insert(component.id, entry.line) {
            return Err(invalid(format!(
                "renamed-from means {}, and so does line {line}: only one entry can",
                component.short_label()
            )));
        }
        *found = EntryMatch::Renamed(component.id);
    }
    Ok(())
}

/// The component that a former name refers to; none if there is no such component, as in an empty database.
fn renamed<'a>(
    components: &'a ByName,
    former: &FormerIdentity,
) -> Result<Option<&'a Component>, String> {
    match components.find(&former.name, &former.attributes) {
        Ok(component) => Ok(Some(component)),
        Err(NoComponent::NotFound) => Ok(None),
        Err(NoComponent::Ambiguous(candidates)) => Err(format!(
            "renamed-from matches several components, add attributes to identify one of: {}",
            candidates.list(Component::short_label)
        )),
    }
}

#[cfg(test)]
mod tests;
