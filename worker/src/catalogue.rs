//! Applies a catalogue file: the components that updates may name.
//!
//! The file is the Python dashboard's. A component is known by its name and attributes, so the
//! work is to find, for each one of the file, the one in the database that it means.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_saphyr::Spanned;
use shared::{
    component::{self, Attribute, Component, ComponentId},
    incident::IncidentId,
};
use sqlx::{Connection, PgConnection};

use crate::admin::LOCK_SCOPE;

/// Incidents of one component that a refusal names, at most.
const NAMED_INCIDENTS: usize = 5;

/// A component as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// The file's line, from 1.
    #[serde(skip)]
    pub line: u64,
    /// Its name.
    pub name: String,
    /// Its attributes, in the file's order.
    pub attributes: Vec<Attribute>,
}

impl Wanted {
    fn label(&self) -> String {
        // Only a component of the database has an id; the label does not show it.
        let (name, attributes) = (self.name.clone(), self.attributes.clone());
        Component { id: ComponentId(0), name, attributes }.label()
    }
}

/// Why a catalogue can't be applied.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is not YAML of the form.
    #[error("the catalogue is not of the form `components: [{{name: …, attributes: {{…}}}}]`: {0}")]
    Malformed(String),
    /// One of its components makes no sense.
    #[error("line {line}: {reason}")]
    Nonsense {
        /// The file's line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Components that the file does not have can't be removed.
    #[error("these can't be removed, since incidents have them: {0}; nothing was applied")]
    InIncidents(String),
    /// The database failed; nothing was applied.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    components: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    attributes: Attributes,
}

/// A mapping whose order is kept: it is the order of the values in a component's label.
#[derive(Default)]
struct Attributes(Vec<Attribute>);

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> de::Visitor<'de> for InOrder {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of attribute names to values")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut attributes = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    attributes.push(Attribute { name, value });
                }
                Ok(Attributes(attributes))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Reads a catalogue file.
///
/// # Errors
/// When it is not of the form, or a component in it makes no sense; with the line.
pub fn parse(yaml: &str) -> Result<Vec<Wanted>, CatalogueError> {
    let file: File =
        serde_saphyr::from_str(yaml).map_err(|e| CatalogueError::Malformed(e.to_string()))?;
    let mut seen: HashMap<(String, Vec<Attribute>), u64> = HashMap::new();
    let mut wanted = Vec::with_capacity(file.components.len());
    for entry in file.components {
        let line = entry.referenced.line();
        let nonsense = |reason: String| CatalogueError::Nonsense { line, reason };
        let Entry { name, attributes: Attributes(attributes) } = entry.value;
        check_text("the name of a component", &name).map_err(nonsense)?;
        for attribute in &attributes {
            check_text("the name of an attribute", &attribute.name).map_err(nonsense)?;
            check_text(&format!("the value of {}", attribute.name), &attribute.value)
                .map_err(nonsense)?;
        }
        let mut sorted = attributes.clone();
        sorted.sort();
        let this = Wanted { line, name, attributes };
        if let Some(first) = seen.insert((this.name.clone(), sorted), line) {
            let label = this.label();
            return Err(nonsense(format!("{label} stands already at line {first}")));
        }
        wanted.push(this);
    }
    Ok(wanted)
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("{what} is empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} has a control character"));
    }
    Ok(())
}

/// How a catalogue is applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Only the plan is made, and nothing changed.
    pub dry_run: bool,
    /// Components that the file does not have are removed.
    pub prune: bool,
}

/// A component whose attributes change.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// As the database has it.
    pub before: Component,
    /// As the file has it.
    pub after: Wanted,
}

/// What applying a catalogue does.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Components to add.
    pub add: Vec<Wanted>,
    /// Components whose attributes change.
    pub change: Vec<Changed>,
    /// Components of the database that the file does not have and that go.
    pub remove: Vec<Component>,
    /// Components of the database that the file does not have and that stay.
    pub stay: Vec<Component>,
    /// How many stand already as the file has them.
    pub same: usize,
}

impl Plan {
    /// Finds for each component of the file the one in the database that it means: the one with
    /// the same name and attributes; failing that, of those with the same name that the file does
    /// not have otherwise, the one that shares most attributes, if that is one only.
    #[must_use]
    pub fn new(existing: Vec<Component>, wanted: Vec<Wanted>) -> Self {
        let mut plan = Self::default();
        let mut left: BTreeMap<ComponentId, Component> =
            existing.into_iter().map(|component| (component.id, component)).collect();
        let mut unmatched = Vec::new();
        for wanted in wanted {
            let exact = left.values().find(|component| same(component, &wanted)).map(|c| c.id);
            match exact {
                Some(id) => {
                    left.remove(&id);
                    plan.same += 1;
                }
                None => unmatched.push(wanted),
            }
        }
        let claims: Vec<Option<ComponentId>> =
            unmatched.iter().map(|wanted| closest(left.values(), wanted)).collect();
        let mut contested: HashSet<ComponentId> = HashSet::new();
        let mut claimed: HashSet<ComponentId> = HashSet::new();
        contested.extend(claims.iter().flatten().filter(|id| !claimed.insert(**id)));
        for (wanted, claim) in unmatched.into_iter().zip(claims) {
            let free = claim.filter(|id| !contested.contains(id)).and_then(|id| left.remove(&id));
            match free {
                Some(component) => plan.change.push(Changed { before: component, after: wanted }),
                None => plan.add.push(wanted),
            }
        }
        plan.stay = left.into_values().collect();
        plan
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for wanted in &self.add {
            writeln!(f, "added    {}", wanted.label())?;
        }
        for Changed { before, after } in &self.change {
            writeln!(f, "changed  {} to {}", before.label(), after.label())?;
        }
        for component in &self.remove {
            writeln!(f, "removed  {}", component.label())?;
        }
        for component in &self.stay {
            writeln!(f, "stays    {}, which the file does not have", component.label())?;
        }
        write!(
            f,
            "{} added, {} changed, {} as they were, ",
            self.add.len(),
            self.change.len(),
            self.same
        )?;
        if !self.remove.is_empty() {
            write!(f, "{} removed, ", self.remove.len())?;
        }
        write!(f, "{} not in the file", self.stay.len())
    }
}

fn same(component: &Component, wanted: &Wanted) -> bool {
    component.name == wanted.name
        && component.attributes.len() == wanted.attributes.len()
        && shared_attributes(component, wanted) == wanted.attributes.len()
}

fn shared_attributes(component: &Component, wanted: &Wanted) -> usize {
    wanted.attributes.iter().filter(|a| component.attributes.contains(a)).count()
}

/// The component that was changed to what is wanted: the one of its name that has most of its
/// attributes, but some. One that shares none is another component, unless one of both has none at
/// all.
fn closest<'a>(
    candidates: impl Iterator<Item = &'a Component>,
    wanted: &Wanted,
) -> Option<ComponentId> {
    let mut ranked: Vec<(usize, ComponentId)> = candidates
        .filter(|component| component.name == wanted.name)
        .map(|component| (shared_attributes(component, wanted), component))
        .filter(|(shared, component)| {
            *shared > 0 || wanted.attributes.is_empty() || component.attributes.is_empty()
        })
        .map(|(shared, component)| (shared, component.id))
        .collect();
    ranked.sort_unstable();
    match ranked.as_slice() {
        [.., (second, _), (first, id)] if first > second => Some(*id),
        [(_, id)] => Some(*id),
        _ => None,
    }
}

/// Applies a catalogue in one transaction and returns what it did, or would do. Applying it again
/// does nothing.
///
/// # Errors
/// When a text does not fit its column, when a component that is to go has incidents, or when the
/// database fails; nothing was applied then.
pub async fn apply(
    database: &mut PgConnection,
    wanted: Vec<Wanted>,
    how: How,
) -> Result<Plan, CatalogueError> {
    let mut transaction = database.begin().await?;
    // Two operators at once would both add what both find missing.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sdb_catalogue'))")
        .execute(&mut *transaction)
        .await?;
    check_lengths(&mut transaction, &wanted).await?;
    if how.prune {
        // No worker decides about a component while it goes: those that wait find it gone.
        sqlx::raw_sql(LOCK_SCOPE).execute(&mut *transaction).await?;
    }
    let mut plan = Plan::new(component::read_all(&mut transaction).await?, wanted);
    if how.prune {
        plan.remove = std::mem::take(&mut plan.stay);
        check_unused(&mut transaction, &plan.remove).await?;
    }
    if how.dry_run {
        transaction.rollback().await?;
        return Ok(plan);
    }
    remove(&mut transaction, &plan.remove).await?;
    for wanted in &plan.add {
        let id: ComponentId =
            sqlx::query_scalar("INSERT INTO component (name) VALUES ($1) RETURNING id")
                .bind(&wanted.name)
                .fetch_one(&mut *transaction)
                .await?;
        add_attributes(&mut transaction, id, &wanted.attributes).await?;
    }
    for Changed { before, after } in &plan.change {
        // Written anew, since their order is that of their ids.
        sqlx::query("DELETE FROM component_attribute WHERE component_id = $1")
            .bind(before.id)
            .execute(&mut *transaction)
            .await?;
        add_attributes(&mut transaction, before.id, &after.attributes).await?;
    }
    transaction.commit().await?;
    Ok(plan)
}

async fn add_attributes(
    database: &mut PgConnection,
    id: ComponentId,
    attributes: &[Attribute],
) -> Result<(), sqlx::Error> {
    for Attribute { name, value } in attributes {
        sqlx::query(
            "INSERT INTO component_attribute (component_id, name, value) VALUES ($1, $2, $3)",
        )
        .bind(id)
        .bind(name)
        .bind(value)
        .execute(&mut *database)
        .await?;
    }
    Ok(())
}

fn ids(components: &[Component]) -> Vec<ComponentId> {
    components.iter().map(|component| component.id).collect()
}

/// Refuses to remove components that incidents have, closed ones included: they are history.
async fn check_unused(
    database: &mut PgConnection,
    components: &[Component],
) -> Result<(), CatalogueError> {
    // Locked, so that nobody puts one into an incident meanwhile.
    sqlx::query("SELECT FROM component WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind(ids(components))
        .execute(&mut *database)
        .await?;
    let used: Vec<(ComponentId, Vec<IncidentId>)> = sqlx::query_as(
        "SELECT component_id, array_agg(incident_id ORDER BY incident_id DESC)
        FROM incident_component_relation WHERE component_id = ANY($1)
        GROUP BY component_id ORDER BY component_id",
    )
    .bind(ids(components))
    .fetch_all(database)
    .await?;
    if used.is_empty() {
        return Ok(());
    }
    let named = used.iter().filter_map(|(id, incidents)| {
        let component = components.iter().find(|component| component.id == *id)?;
        let mut named: Vec<String> =
            incidents.iter().take(NAMED_INCIDENTS).map(ToString::to_string).collect();
        let more = incidents.len() - named.len();
        if more > 0 {
            named.push(format!("{more} more"));
        }
        Some(format!("{} in {}", component.label(), named.join(", ")))
    });
    Err(CatalogueError::InIncidents(named.collect::<Vec<_>>().join("; ")))
}

async fn remove(database: &mut PgConnection, components: &[Component]) -> Result<(), sqlx::Error> {
    if components.is_empty() {
        return Ok(());
    }
    for statement in [
        "DELETE FROM component_attribute WHERE component_id = ANY($1)",
        "DELETE FROM component WHERE id = ANY($1)",
    ] {
        sqlx::query(statement).bind(ids(components)).execute(&mut *database).await?;
    }
    Ok(())
}

/// The columns' lengths differ between the two forms of the Python dashboard's tables.
async fn check_lengths(
    database: &mut PgConnection,
    wanted: &[Wanted],
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
    for Wanted { line, attributes, .. } in wanted {
        for Attribute { name, value } in attributes {
            for (text, limit) in [(name, name_limit), (value, value_limit)] {
                if too_long(text, limit) {
                    return Err(CatalogueError::Nonsense {
                        line: *line,
                        reason: format!(
                            "`{text}` is longer than the {} characters that the database takes",
                            limit.unwrap_or_default()
                        ),
                    });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "components:
  - name: DNS
    attributes:
      region: R1
      category: Net
  - name: DNS
    attributes: {region: R2, category: Net}
";

    fn stored(id: i32, wanted: &Wanted) -> Component {
        let (name, attributes) = (wanted.name.clone(), wanted.attributes.clone());
        Component { id: ComponentId(id), name, attributes }
    }

    #[test]
    fn order_and_lines_are_kept() {
        let parsed = parse(TWO).expect("parses");
        let shown: Vec<_> = parsed.iter().map(|w| (w.line, w.label())).collect();
        assert_eq!(shown, [(2, "DNS (R1, Net)".to_owned()), (6, "DNS (R2, Net)".to_owned())]);
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        for (yaml, says) in [
            ("", "not of the form"),
            ("components: 5", "line 1"),
            ("components:\n  - title: DNS\n", "line 2"),
            ("components:\n  - name: DNS\n    attributes: [a]\n", "line 3"),
            ("components:\n  - name: DNS\n    colour: red\n", "line 3"),
            ("components:\n  - name: ' '\n", "line 2: the name of a component is empty"),
            (
                "components:\n  - name: DNS\n    attributes: {region: ''}\n",
                "line 2: the value of region is empty",
            ),
            (
                "components:\n  - name: \"a\\u0000b\"\n",
                "line 2: the name of a component has a control character",
            ),
            ("components:\n  - name: DNS\n    attributes: {a: b, a: c}\n", "line 3"),
            (
                "components:\n  - name: DNS\n  - name: CDN\n  - name: DNS\n",
                "line 4: DNS () stands already at line 2",
            ),
        ] {
            let error = parse(yaml).expect_err(yaml).to_string();
            assert!(error.contains(says), "{yaml:?} gives {error:?}, not {says:?}");
        }
    }

    #[test]
    fn a_plan_adds_changes_and_keeps() {
        let wanted = parse(TWO).expect("parses");
        let all_new = Plan::new(vec![], wanted.clone());
        assert_eq!((all_new.add.len(), all_new.same), (2, 0));

        let existing: Vec<_> =
            [3, 4].into_iter().zip(&wanted).map(|(id, w)| stored(id, w)).collect();
        let again = Plan::new(existing.clone(), wanted.clone());
        assert_eq!(again, Plan { same: 2, ..Plan::default() });

        // Both categories change: the region still tells the two apart.
        let renamed = TWO.replace("Net", "Network");
        let changed = Plan::new(existing.clone(), parse(&renamed).expect("parses"));
        let ids: Vec<_> = changed.change.iter().map(|c| (c.before.id.0, c.after.label())).collect();
        assert_eq!(ids, [(3, "DNS (R1, Network)".to_owned()), (4, "DNS (R2, Network)".to_owned())]);

        // Nothing tells which of two is meant: it is a third one.
        let third = parse("components:\n- name: DNS\n  attributes: {region: R3, category: Net}\n");
        let plan = Plan::new(existing, third.expect("parses"));
        assert_eq!((plan.add.len(), plan.change.len(), plan.stay.len()), (1, 0, 2));

        // Alone of its name, it is another component if nothing else is the same, and the same one
        // if one of both has nothing else.
        let plan_of = |before: &str, after: &str| {
            let [before, after] = [before, after].map(|attributes| {
                parse(&format!("components:\n- name: DNS\n  attributes: {{{attributes}}}\n"))
                    .expect("parses")
            });
            let plan = Plan::new(vec![stored(3, &before[0])], after);
            (plan.add.len(), plan.change.len(), plan.stay.len())
        };
        assert_eq!(plan_of("region: R1", "region: R2"), (1, 0, 1));
        assert_eq!(plan_of("region: R1, category: Net", "region: R2, category: Net"), (0, 1, 0));
        assert_eq!(plan_of("", "region: R2"), (0, 1, 0));
        assert_eq!(plan_of("region: R1", ""), (0, 1, 0));
    }
}
