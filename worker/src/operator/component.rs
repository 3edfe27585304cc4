//! The components that an operator names.

use std::{convert::Infallible, str::FromStr};

use anyhow::{Result, anyhow, bail};
use shared::{
    database::components,
    domain::component::{Attribute, ByName, Component, ComponentId, NoComponent},
};
use sqlx::PgConnection;

/// How an operator names a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ComponentName {
    /// By its id: `7`.
    Id(ComponentId),
    /// By its name, with attributes where several have it: `DNS (region=R1, type=dns)`.
    Name(String, Vec<Attribute>),
}

impl FromStr for ComponentName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let text = text.trim();
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(ComponentId(id)));
        }
        let named = text.strip_suffix(')').and_then(|text| {
            let (name, attributes) = text.rsplit_once('(')?;
            let attributes: Option<Vec<Attribute>> = attributes.split(',').map(attribute).collect();
            Some(Self::Name(name.trim().to_owned(), attributes?))
        });
        // Without `=` between them, the parentheses belong to the name.
        Ok(named.unwrap_or_else(|| Self::Name(text.to_owned(), Vec::new())))
    }
}

fn attribute(text: &str) -> Option<Attribute> {
    let (name, value) = text.split_once('=')?;
    Some(Attribute { name: name.trim().to_owned(), value: value.trim().to_owned() })
}

/// Finds the named components, in order of their ids, each once. It reads the whole catalogue, so it runs
/// before the scope's lock is taken, and the result is checked again then
/// ([`super::transaction::Change::begin`]).
///
/// # Errors
/// When no component or several match, or the database fails.
pub(super) async fn find(
    database: &mut PgConnection,
    names: &[ComponentName],
) -> Result<Vec<Component>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let catalogue = ByName::new(components::read_all(database).await?);
    let mut found: Vec<Component> = Vec::with_capacity(names.len());
    for name in names {
        found.push(pick(&catalogue, name)?.clone());
    }
    found.sort_by_key(|component| component.id);
    found.dedup_by_key(|component| component.id);
    Ok(found)
}

/// Finds the named component.
///
/// # Errors
/// When no component or several match, or the database fails.
pub(crate) async fn one(database: &mut PgConnection, name: &ComponentName) -> Result<Component> {
    let catalogue = ByName::new(components::read_all(database).await?);
    Ok(pick(&catalogue, name)?.clone())
}

fn pick<'a>(catalogue: &'a ByName, name: &ComponentName) -> Result<&'a Component> {
    match name {
        ComponentName::Id(id) => {
            catalogue.with_id(*id).ok_or_else(|| anyhow!("there is no component {id}"))
        }
        ComponentName::Name(name, attributes) => match catalogue.find(name, attributes) {
            Ok(component) => Ok(component),
            Err(NoComponent::NotFound) if attributes.is_empty() => {
                bail!("there is no component {name}")
            }
            Err(NoComponent::NotFound) => {
                bail!("there is no component {name} with these attributes")
            }
            Err(NoComponent::Ambiguous(candidates)) => {
                let several = candidates.list(|c| format!("{} is {}", c.id, c.short_label()));
                bail!("several components are {name}, take an id: {several}")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, attributes: &[(&str, &str)]) -> ComponentName {
        let attribute = |(name, value): &(&str, &str)| Attribute {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        ComponentName::Name(name.to_owned(), attributes.iter().map(attribute).collect())
    }

    #[test]
    fn ids_names_and_attributes_are_distinguished() {
        for (text, means) in [
            ("7", ComponentName::Id(ComponentId(7))),
            ("DNS", named("DNS", &[])),
            (
                "Object Storage (region=Region 1)",
                named("Object Storage", &[("region", "Region 1")]),
            ),
            ("DNS(region=R1,type = dns )", named("DNS", &[("region", "R1"), ("type", "dns")])),
            ("DNS (type=a=b)", named("DNS", &[("type", "a=b")])),
            // Parentheses that belong to the name.
            ("Cloud (beta)", named("Cloud (beta)", &[])),
            ("Cloud (beta) (region=R1)", named("Cloud (beta)", &[("region", "R1")])),
        ] {
            assert_eq!(text.parse::<ComponentName>(), Ok(means), "{text}");
        }
    }
}
