//! The catalogue as readers see it: regions, categories, labels.

use shared::{
    component::{Attribute, Component, ComponentId},
    database::components,
};

use super::html::contained;

use crate::{
    http::{error::ApiError, query::Query, reader::Reader},
    lists::ListError,
    store::snapshot::Snapshot,
};

/// The attribute by which components are shown side by side.
const REGION: &str = "region";

/// All components, in the order of their ids, with names and values that can be shown beside others.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read(state: &mut Snapshot<'_>) -> Result<Vec<Component>, sqlx::Error> {
    let components = components::read_all(&mut state.database).await?;
    Ok(components.into_iter().map(shown).collect())
}

fn shown(component: Component) -> Component {
    let Component { id, name, attributes } = component;
    let attributes = attributes.into_iter();
    Component {
        id,
        name: contained(&name),
        attributes: attributes
            .map(|Attribute { name, value }| Attribute {
                name: contained(&name),
                value: contained(&value),
            })
            .collect(),
    }
}

/// All regions, in order.
pub(crate) fn regions(components: &[Component]) -> Vec<String> {
    let mut regions: Vec<String> =
        components.iter().filter_map(region).map(str::to_owned).collect();
    regions.sort_unstable();
    regions.dedup();
    regions
}

/// The region of a component.
pub(crate) fn region(component: &Component) -> Option<&str> {
    attribute(component, REGION)
}

/// The value of an attribute that is not empty.
pub(crate) fn attribute<'a>(component: &'a Component, name: &str) -> Option<&'a str> {
    let mut attributes = component.attributes.iter();
    let found = attributes.find(|attribute| attribute.name == name);
    found.map(|attribute| attribute.value.as_str()).filter(|value| !value.is_empty())
}

/// A component with its region.
pub(crate) fn label(component: &Component) -> String {
    match region(component) {
        Some(region) => format!("{} ({region})", component.name),
        None => component.name.clone(),
    }
}

/// The region that a request is about; none for all.
///
/// # Errors
/// 422 if it can't be one.
pub(crate) fn asked_region(reader: &Reader) -> Result<Option<String>, ApiError> {
    let mut query = Query::new(&reader.uri);
    let region = query.attribute_text(REGION).filter(|region| !region.is_empty());
    query.finish()?;
    Ok(region)
}

/// The components of a region; none for all.
///
/// # Errors
/// If there is no such region.
pub(crate) fn in_region(
    components: &[Component],
    asked: Option<&str>,
) -> Result<Option<Vec<ComponentId>>, ListError> {
    let Some(asked) = asked else { return Ok(None) };
    let of = components.iter().filter(|component| region(component) == Some(asked));
    let ids: Vec<ComponentId> = of.map(|component| component.id).collect();
    if ids.is_empty() { Err(ListError::Gone("There is no such region")) } else { Ok(Some(ids)) }
}
