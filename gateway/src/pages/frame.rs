//! What all pages have in common.

use shared::domain::component::Component;

use crate::{
    config::PageConfig,
    lists::DependsOn,
    store::snapshot::Snapshot,
    view::{
        catalogue::{AskedRegion, regions},
        html::Time,
    },
};

/// What a page may load: its own style, script and pictures, and events. Nothing is inline.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the frame around a page shows.
pub(crate) struct Frame {
    /// The path below which all pages are, with slashes around it.
    pub(crate) base: String,
    /// The title of all pages.
    pub(crate) site: String,
    /// The version of the lists, as events have it.
    pub(crate) version: String,
    pub(crate) as_of: Time,
    /// The regions to choose from.
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
    pub(super) fn new(pages: &PageConfig, state: &Snapshot<'_>) -> Self {
        Self {
            base: pages.base(),
            site: pages.title.clone(),
            version: state.version.of_list(DependsOn::Windows).text(),
            as_of: Time(state.now),
            regions: Vec::new(),
            query: String::new(),
        }
    }

    /// Around a page that can be about one region.
    pub(super) fn of_region(self, components: &[Component], asked: &AskedRegion) -> Self {
        let region = |name: String| {
            let query = query(&name);
            Region { is_shown: asked.name() == Some(name.as_str()), query, name }
        };
        Self {
            regions: regions(components).into_iter().map(region).collect(),
            query: asked.name().map(query).unwrap_or_default(),
            ..self
        }
    }
}

/// The query for a region.
fn query(region: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
    query.append_pair("region", region);
    query.finish()
}
