//! What all pages have in common.

use shared::component::{Component, ComponentId};

use super::html::Time;
use crate::{
    config::PageConfig,
    http::{error::ApiError, query::Query, reader::Reader},
    lists::{DependsOn, ListError},
    store::snapshot::Snapshot,
};

/// What a page may load: its own style, script and pictures, and events. Nothing is inline.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The attribute by which components are shown side by side.
const REGION: &str = "region";

/// What the frame around a page shows.
pub(crate) struct Frame {
    /// The path below which all pages are, with slashes around it.
    pub(crate) base: String,
    /// The title of all pages.
    pub(crate) site: String,
    /// The version of the lists, as events have it.
    pub(crate) version: String,
    pub(crate) as_of: Time,
    pub(crate) regions: Vec<Region>,
    /// The query of the region that is shown; empty for all.
    pub(crate) query: String,
}

/// A region to choose.
pub(crate) struct Region {
    pub(crate) name: String,
    /// As a part of an address.
    pub(crate) query: String,
    pub(crate) is_shown: bool,
}

impl Frame {
    pub(super) fn new(
        pages: &PageConfig,
        state: &Snapshot<'_>,
        components: &[Component],
        shown: Option<&str>,
    ) -> Self {
        let region = |name: String| {
            let query = query(&name);
            Region { is_shown: shown == Some(name.as_str()), query, name }
        };
        Self {
            base: pages.base(),
            site: pages.title.clone(),
            version: state.version.of_list(DependsOn::Windows).text(),
            as_of: Time(state.now),
            regions: regions(components).into_iter().map(region).collect(),
            query: shown.map(query).unwrap_or_default(),
        }
    }
}

/// The query for a region.
fn query(region: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new("?".to_owned());
    query.append_pair("region", region);
    query.finish()
}

/// All regions, in order.
pub(super) fn regions(components: &[Component]) -> Vec<String> {
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
pub(super) fn attribute<'a>(component: &'a Component, name: &str) -> Option<&'a str> {
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
