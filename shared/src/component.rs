//! Components: the monitored parts of the cloud that the catalogue lists.

use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

/// `component.id`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct ComponentId(pub i32);

impl ComponentId {
    /// The partition that carries this component's updates, `0..partitions`.
    ///
    /// One component's updates stay in order because they all take the same partition.
    #[must_use]
    pub const fn partition(self, partitions: u16) -> u16 {
        // The remainder by a u16 fits a u16.
        self.0.rem_euclid(partitions as i32) as u16
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attribute of a component, such as `region` = `EU-DE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attribute {
    /// What is said, such as `region`.
    pub name: String,
    /// What it is for this component.
    pub value: String,
}

/// A monitored part of the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its id in the database.
    pub id: ComponentId,
    /// Its name, shared by its siblings in other regions.
    pub name: String,
    /// Its attributes, in catalogue order.
    pub attributes: Vec<Attribute>,
}

impl Component {
    /// `Name (value, value, …)`, attributes in catalogue order, `Name ()` without any: how the
    /// updates of an incident name a component.
    #[must_use]
    pub fn label(&self) -> String {
        let values: Vec<&str> = self.attributes.iter().map(|a| a.value.as_str()).collect();
        format!("{} ({})", self.name, values.join(", "))
    }

    /// Whether `other`, read at another time under the same id, is still this component: the same
    /// name, and no attribute that both have with another value. The catalogue may add or drop
    /// attributes; a provisioning that reuses ids gives the id another name or region.
    #[must_use]
    pub fn is_still(&self, other: &Self) -> bool {
        self.name == other.name
            && self.attributes.iter().all(|mine| {
                other.attributes.iter().all(|its| its.name != mine.name || its.value == mine.value)
            })
    }
}

/// Why no component could be found for a name and attributes.
#[derive(Debug, PartialEq, Eq)]
pub enum NoComponent<'a> {
    /// None has these.
    NotFound,
    /// Several have these attributes and more.
    Ambiguous(Vec<&'a Component>),
}

/// Of the components of one name, in order of their ids: the one with exactly these attributes, the
/// lowest id of several; failing that, the only one whose attributes contain these (`api-v1`, "POST
/// /api/v1/component_status").
///
/// # Errors
/// When there is none such, or several contain them.
pub fn find<'a>(
    named: impl IntoIterator<Item = &'a Component>,
    attributes: &[Attribute],
) -> Result<&'a Component, NoComponent<'a>> {
    let containing: Vec<&Component> = named
        .into_iter()
        .filter(|component| attributes.iter().all(|a| component.attributes.contains(a)))
        .collect();
    let exact = containing.iter().find(|c| c.attributes.len() == attributes.len());
    match (exact, containing.as_slice()) {
        (Some(component), _) | (None, [component]) => Ok(component),
        (None, []) => Err(NoComponent::NotFound),
        (None, _) => Err(NoComponent::Ambiguous(containing)),
    }
}

/// A component with the names and the values of its attributes, in catalogue order.
macro_rules! select {
    () => {
        "SELECT c.id, c.name,
            coalesce(array_agg(a.name ORDER BY a.id) FILTER (WHERE a.id IS NOT NULL), '{}'),
            coalesce(array_agg(a.value ORDER BY a.id) FILTER (WHERE a.id IS NOT NULL), '{}')
        FROM component c LEFT JOIN component_attribute a ON a.component_id = c.id"
    };
}
/// Every component, in order of their ids.
///
/// # Errors
/// When the database fails.
pub async fn read_all(database: &mut PgConnection) -> Result<Vec<Component>, sqlx::Error> {
    let rows = sqlx::query_as(concat!(select!(), " GROUP BY c.id, c.name ORDER BY c.id"));
    Ok(rows.fetch_all(database).await?.into_iter().map(component).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, attributes: &[(&str, &str)]) -> Component {
        Component {
            id: ComponentId(1),
            name: name.to_owned(),
            attributes: attributes
                .iter()
                .map(|(name, value)| Attribute {
                    name: (*name).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
        }
    }

    #[test]
    fn labels_list_the_values_in_catalogue_order() {
        let two = component("Auto Scaling", &[("category", "Compute"), ("region", "EU-DE")]);
        assert_eq!(two.label(), "Auto Scaling (Compute, EU-DE)");
        assert_eq!(component("DNS", &[]).label(), "DNS ()");
    }

    #[test]
    fn a_reused_id_is_told_from_a_changed_catalogue() {
        let sent = component("DNS", &[("region", "EU-DE")]);
        assert!(sent.is_still(&component("DNS", &[("region", "EU-DE"), ("type", "dns")])));
        assert!(sent.is_still(&component("DNS", &[])));
        assert!(!sent.is_still(&component("DNS", &[("region", "EU-NL")])));
        assert!(!sent.is_still(&component("CDN", &[("region", "EU-DE")])));
    }

    #[test]
    fn every_component_has_one_partition() {
        assert_eq!(ComponentId(17).partition(8), 1);
        assert_eq!(ComponentId(16).partition(8), 0);
        assert_eq!(ComponentId(i32::MIN).partition(7), ComponentId(i32::MIN).partition(7));
    }
}
