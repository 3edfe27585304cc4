//! The catalogue as readers see it: regions, categories, labels.

use axum::http::StatusCode;
use shared::{
    database::components,
    domain::component::{Attribute, Component, ComponentId},
};

use super::html::contained;
use crate::{
    http::{error::ApiError, query::Query, reader::Reader},
    lists::ListError,
    store::{
        catalogue::{Catalogue, CatalogueCopy},
        snapshot::Snapshot,
    },
};

/// The attribute by which components are shown side by side.
const REGION: &str = "region";
const NO_REGION: &str = "There is no such region";
/// What readers get who ask for a component that does not exist.
pub(crate) const NO_COMPONENT: &str =
    "There is no such component; it may have been removed from the catalogue";

/// All components, in the order of their ids, with names and values that can be shown beside others.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read(state: &mut Snapshot<'_>) -> Result<Vec<Component>, sqlx::Error> {
    let components = components::read_all(&mut state.database).await?;
    Ok(components.into_iter().map(shown).collect())
}

/// The components with these ids, likewise.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read_some(
    state: &mut Snapshot<'_>,
    ids: &[ComponentId],
) -> Result<Vec<Component>, sqlx::Error> {
    let components = components::read(&mut state.database, ids).await?;
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

/// The id of a component that a request is about. Refuses one that is known not to exist, so that nothing is read for
/// ids that somebody makes up.
///
/// # Errors
/// 404 if there is no id, or no component with it.
pub(crate) fn known_component(
    id: Option<ComponentId>,
    catalogue: &CatalogueCopy,
) -> Result<ComponentId, ApiError> {
    id.filter(|id| !catalogue.lacks(*id))
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, NO_COMPONENT))
}

/// The region that a request is about, or all of them.
#[derive(Clone, Debug)]
pub(crate) struct AskedRegion(Option<String>);

impl AskedRegion {
    /// From the query of a request that has no other parameter.
    ///
    /// # Errors
    /// 422 if it can't be a region, 404 if there is none of this name.
    pub(crate) fn of(reader: &Reader, catalogue: &CatalogueCopy) -> Result<Self, ApiError> {
        let mut query = Query::new(&reader.uri);
        let asked = Self::take(&mut query);
        query.finish()?;
        asked.known(catalogue)
    }

    /// Takes it out of a query.
    pub(crate) fn take(query: &mut Query) -> Self {
        Self(query.attribute_text(REGION).filter(|region| !region.is_empty()))
    }

    /// Refuses a region that does not exist, so that nothing is read for names that somebody makes up.
    ///
    /// # Errors
    /// 404 if there is none of this name.
    pub(crate) fn known(self, catalogue: &CatalogueCopy) -> Result<Self, ApiError> {
        let asked = self.name().zip(catalogue.get());
        if asked.is_some_and(|(asked, catalogue)| !has_region(&catalogue, asked)) {
            return Err(ApiError::new(StatusCode::NOT_FOUND, NO_REGION));
        }
        Ok(self)
    }

    /// Its name; none for all.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether a component is in it.
    pub(crate) fn has(&self, component: &Component) -> bool {
        self.0.is_none() || region(component) == self.name()
    }

    /// The ids of its components; none for all.
    ///
    /// # Errors
    /// If there is no such region.
    pub(crate) fn ids(
        &self,
        components: &[Component],
    ) -> Result<Option<Vec<ComponentId>>, ListError> {
        if self.0.is_none() {
            return Ok(None);
        }
        let of = components.iter().filter(|component| self.has(component));
        let ids: Vec<ComponentId> = of.map(|component| component.id).collect();
        if ids.is_empty() { Err(ListError::Gone(NO_REGION)) } else { Ok(Some(ids)) }
    }
}

/// Whether the catalogue has a region that is shown under this name.
fn has_region(catalogue: &Catalogue, asked: &str) -> bool {
    let is_asked =
        |region: &str| region == asked || (!region.is_ascii() && contained(region) == asked);
    catalogue.all().iter().filter_map(region).any(is_asked)
}
