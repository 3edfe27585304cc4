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

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use shared::component::{Attribute, ByName, Component, ComponentId, NoComponent};

use super::{CatalogueEntry, CatalogueError, file::Former};

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

/// The component that an entry refers to, as a position in the list of components of the database.
#[derive(Clone, Copy)]
enum Meaning {
    Same(usize),
    Recategorized(usize),
    Renamed(usize),
    New,
}

impl Meaning {
    const fn place(self) -> Option<usize> {
        match self {
            Self::Same(place) | Self::Recategorized(place) | Self::Renamed(place) => Some(place),
            Self::New => None,
        }
    }
}

impl CataloguePlan {
    /// Finds the component of the database that each entry of the file refers to. The components are in
    /// order of their ids.
    ///
    /// # Errors
    /// When a `renamed-from` could refer to several components, or to that of another entry.
    pub(crate) fn new(
        existing: Vec<Component>,
        entries: Vec<CatalogueEntry>,
    ) -> Result<Self, CatalogueError> {
        let meanings = meanings(&existing, &entries)?;
        let mut plan = Self::default();
        let mut left: Vec<Option<Component>> = existing.into_iter().map(Some).collect();
        for (after, meaning) in entries.into_iter().zip(meanings) {
            let (list, place) = match meaning {
                Meaning::Same(place) => {
                    left[place] = None;
                    plan.same += 1;
                    continue;
                }
                Meaning::New => {
                    plan.add.push(after);
                    continue;
                }
                Meaning::Recategorized(place) => (&mut plan.change, place),
                Meaning::Renamed(place) => (&mut plan.rename, place),
            };
            list.extend(left[place].take().map(|before| Changed { before, after }));
        }
        plan.stay = left.into_iter().flatten().collect();
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

fn meanings(
    existing: &[Component],
    entries: &[CatalogueEntry],
) -> Result<Vec<Meaning>, CatalogueError> {
    let mut exact: HashMap<Key<'_>, usize> = HashMap::with_capacity(existing.len());
    // The position of a component whose identity is unique; otherwise none.
    let mut alone: HashMap<Key<'_>, Option<usize>> = HashMap::with_capacity(existing.len());
    for (place, Component { name, attributes, .. }) in existing.iter().enumerate() {
        exact.entry(key(name, attributes)).or_insert(place);
        alone
            .entry(identity(name, attributes))
            .and_modify(|one| *one = None)
            .or_insert(Some(place));
    }
    let mut wanted: HashMap<Key<'_>, usize> = HashMap::with_capacity(entries.len());
    for CatalogueEntry { name, attributes, .. } in entries {
        *wanted.entry(identity(name, attributes)).or_default() += 1;
    }
    let mut meanings: Vec<Meaning> = entries
        .iter()
        .map(|CatalogueEntry { name, attributes, .. }| {
            if let Some(place) = exact.get(&key(name, attributes)) {
                return Meaning::Same(*place);
            }
            let identity = identity(name, attributes);
            match alone.get(&identity) {
                Some(Some(place)) if wanted.get(&identity) == Some(&1) => {
                    Meaning::Recategorized(*place)
                }
                _ => Meaning::New,
            }
        })
        .collect();
    find_renamed(existing, entries, &mut meanings)?;
    Ok(meanings)
}

/// Finds the components that entries name by a former name.
fn find_renamed(
    existing: &[Component],
    entries: &[CatalogueEntry],
    meanings: &mut [Meaning],
) -> Result<(), CatalogueError> {
    let is_new = |meaning: &Meaning| matches!(meaning, Meaning::New);
    if !entries
        .iter()
        .zip(&*meanings)
        .any(|(e, meaning)| is_new(meaning) && e.renamed_from.is_some())
    {
        return Ok(());
    }
    let places: HashMap<ComponentId, usize> =
        existing.iter().enumerate().map(|(place, component)| (component.id, place)).collect();
    let components = ByName::new(existing.to_vec());
    // The lines of the entries that refer to each component.
    let mut taken: HashMap<usize, u64> = entries
        .iter()
        .zip(&*meanings)
        .filter_map(|(entry, meaning)| Some((meaning.place()?, entry.line)))
        .collect();
    for (entry, meaning) in entries.iter().zip(meanings) {
        let (Meaning::New, Some(former)) = (&meaning, &entry.renamed_from) else { continue };
        let invalid = |reason| CatalogueError::Invalid { line: entry.line, reason };
        let Some(component) = renamed(&components, former).map_err(invalid)? else { continue };
        let Some(place) = places.get(&component.id) else { continue };
        if let Some(line) = taken.insert(*place, entry.line) {
            return Err(invalid(format!(
                "renamed-from means {}, but so does line {line}: only one of them can be it",
                component.short_label()
            )));
        }
        *meaning = Meaning::Renamed(*place);
    }
    Ok(())
}

/// The component that a former name refers to; none if there is no such component, as in an empty database.
fn renamed<'a>(components: &'a ByName, former: &Former) -> Result<Option<&'a Component>, String> {
    match components.find(&former.name, &former.attributes) {
        Ok(component) => Ok(Some(component)),
        Err(NoComponent::NotFound) => Ok(None),
        Err(NoComponent::Ambiguous(candidates)) => Err(format!(
            "renamed-from may mean several components, add attributes to name one of: {}",
            candidates.list(Component::short_label)
        )),
    }
}

#[cfg(test)]
mod tests;
