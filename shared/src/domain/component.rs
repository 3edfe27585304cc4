//! Components: the monitored parts of the cloud that the catalogue lists.

mod by_name;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::by_name::{ByName, Candidates, NoComponent};
use crate::domain::shorten::shorten;

/// Maximum number of attributes of one component, in a catalogue file and in an update. Real components
/// have three; the tables have no limit.
pub const MAX_ATTRIBUTES: usize = 32;
/// Maximum number of characters of an attribute's name, and of its value. The tables have limits of 30
/// and 50 if the dashboard's ORM created them, and none if Alembic did.
pub const MAX_ATTRIBUTE_LENGTH: usize = 255;
/// The attribute that only groups components on a page. It does not distinguish components.
const CATEGORY: &str = "category";
/// Maximum number of characters of a component's label in an error message.
const SHORT_LABEL: usize = 120;

/// `component.id`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct ComponentId(pub i32);

impl ComponentId {
    /// The partition of this component's updates, `0..partitions`.
    ///
    /// The updates of one component stay in order because they are all in the same partition.
    #[must_use]
    pub const fn partition(self, partitions: u16) -> u16 {
        // A remainder modulo a u16 fits into a u16.
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
    /// Its name, such as `region`.
    pub name: String,
    /// Its value for this component.
    pub value: String,
}

impl Attribute {
    /// Whether it distinguishes components of the same name. All attributes do, except `category`, which
    /// is the heading under which pages show a component and is sometimes renamed.
    #[must_use]
    pub fn tells_apart(&self) -> bool {
        self.name != CATEGORY
    }
}

/// A monitored part of the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its id in the database.
    pub id: ComponentId,
    /// Its name, which components in other regions may share.
    pub name: String,
    /// Its attributes, in catalogue order.
    pub attributes: Vec<Attribute>,
}

impl Component {
    /// `Name (value, value, …)` with the attributes in catalogue order, `Name ()` without attributes: the
    /// form in which timelines name a component.
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.name, &self.attributes)
    }

    /// The label for an error message, shortened if necessary.
    #[must_use]
    pub fn short_label(&self) -> String {
        short_label(&self.name, &self.attributes)
    }

    /// Whether `other`, read at another time under the same id, is still this component: it has the same
    /// name, and no attribute except `category` differs in its value. The catalogue may add or remove
    /// attributes and rename categories; a provisioning that reuses ids gives the id another name or
    /// region.
    #[must_use]
    pub fn is_still(&self, other: &Self) -> bool {
        self.name == other.name
            && self.attributes.iter().filter(|mine| mine.tells_apart()).all(|mine| {
                other.attributes.iter().all(|its| its.name != mine.name || its.value == mine.value)
            })
    }
}

/// [`Component::label`] of a component that may have no id yet.
#[must_use]
pub fn label(name: &str, attributes: &[Attribute]) -> String {
    let values: Vec<&str> = attributes.iter().map(|a| a.value.as_str()).collect();
    format!("{name} ({})", values.join(", "))
}

/// [`Component::short_label`] of a component that may have no id yet.
#[must_use]
pub fn short_label(name: &str, attributes: &[Attribute]) -> String {
    shorten(&label(name, attributes), SHORT_LABEL).into_owned()
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
        // A category is renamed in place.
        let sent = component("DNS", &[("category", "Net"), ("region", "EU-DE")]);
        assert!(sent.is_still(&component("DNS", &[("category", "Network"), ("region", "EU-DE")])));
        assert!(!sent.is_still(&component("DNS", &[("category", "Net"), ("region", "EU-NL")])));
    }

    #[test]
    fn short_labels_are_short() {
        let long = component(&"x".repeat(10_000), &[("region", "EU-DE")]);
        assert_eq!(long.short_label().chars().count(), SHORT_LABEL + 1);
        assert_eq!(component("DNS", &[]).short_label(), "DNS ()");
    }

    #[test]
    fn every_component_has_one_partition() {
        assert_eq!(ComponentId(17).partition(8), 1);
        assert_eq!(ComponentId(16).partition(8), 0);
        assert_eq!(ComponentId(i32::MIN).partition(7), ComponentId(i32::MIN).partition(7));
    }
}
