//! `GET /feed.atom`: incidents and maintenances as Atom.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};
use shared::domain::{component::ComponentId, timestamp::Timestamp};
use utoipa::IntoParams;

use super::xml;
use crate::{
    gateway::App,
    http::{address::address, error::ApiError, query::Query, reader::Reader},
    lists::{
        DependsOn, ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{
        page_events::{self, Most, PageEvent, Which},
        snapshot::Snapshot,
    },
    view::{
        catalogue::{self, AskedRegion, NO_COMPONENT, known_component, label},
        event::{EventView, Names, names},
    },
};

/// Entries, and updates of each of them.
const MOST: Most = Most { events: 30, after: 0, updates: 50 };

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `get` takes")]
struct Parameters {
    /// Only incidents and maintenances of components in this region.
    #[param(max_length = 255)]
    region: Option<String>,
    /// Only those of the component with this id.
    component: Option<i32>,
}

/// Incidents and maintenances as Atom
///
/// The newest 30 that have started, of all, of a region or of a component.
#[utoipa::path(
    get,
    path = "/feed.atom",
    operation_id = "atom",
    params(Parameters),
    responses(
        (status = 200, description = "The feed", body = String, content_type = "application/atom+xml",
            headers(("ETag"))),
        (status = 404, description = "There is no such region or component"),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let mut query = Query::new(&reader.uri);
    let region = AskedRegion::take(&mut query);
    let component = query.text("component").and_then(|text| {
        let id = text.parse().ok().map(ComponentId);
        if id.is_none() {
            query.refuse("component", "Must be the id of a component.");
        }
        id
    });
    query.finish()?;
    let region = region.known(&app.catalogue)?;
    if component.is_some() {
        known_component(component, &app.catalogue)?;
    }
    let root = address(app.pages.url.as_deref(), &reader.headers);
    let feed = Feed { root, region, component, app: app.clone() };
    serve_document(&app.lists, &reader, feed).await
}

struct Feed {
    /// The address of the service, with a slash at its end.
    root: String,
    region: AskedRegion,
    component: Option<ComponentId>,
    app: Arc<App>,
}

#[derive(Template)]
#[template(path = "feed.xml")]
struct FeedXml<'a> {
    root: &'a str,
    /// What ids begin with. They stay, whatever the address is that a request uses.
    ids: &'a str,
    /// Its own path.
    path: String,
    /// The path of the page about the same.
    page: String,
    title: String,
    site: String,
    updated: String,
    entries: Vec<Entry>,
}

struct Entry {
    id: i32,
    title: String,
    word: &'static str,
    published: String,
    updated: String,
    /// HTML.
    content: String,
}

#[derive(Template)]
#[template(path = "feed_entry.html")]
struct EntryHtml<'a> {
    event: &'a EventView,
}

impl Document for Feed {
    const TYPE: &'static str = "application/atom+xml";
    // Readers that poll find that nothing has changed.
    const DEPENDS_ON: DependsOn = DependsOn::Recent;

    fn name(&self) -> String {
        let Self { root, region, component, .. } = self;
        format!("atom {root} {region:?} {component:?}")
    }

    fn has_addresses(&self) -> bool {
        self.app.pages.url.is_none()
    }

    async fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> Result<(), ListError> {
        let Self { root, region, component, app } = self;
        let all = catalogue::read(state).await?;
        let names = names(&all);
        let of = region.ids(&all)?;
        let (which, about) = match component {
            Some(id) => {
                let component = names.get(&id).ok_or(ListError::Gone(NO_COMPONENT))?;
                (Which::Of(id), Some(label(component)))
            }
            None => (Which::Newest, region.name().map(str::to_owned)),
        };
        let events = page_events::read(state, which, MOST, of.as_deref()).await?;
        let site = &app.pages.title;
        let entries = entries(&events, &names, &root, state.now)?;
        let (path, page) = paths(region.name(), component);
        let feed = FeedXml {
            root: &root,
            ids: app.pages.url.as_deref().unwrap_or("tag:status-dashboard,2026:"),
            path,
            page,
            title: xml::clean(
                &about.map_or_else(|| site.clone(), |about| format!("{about} · {site}")),
            ),
            site: xml::clean(site),
            updated: entries.iter().map(|entry| entry.updated.clone()).max().unwrap_or_else(never),
            entries,
        };
        feed.write_into(writer.buffer())?;
        Ok(())
    }
}

/// The time of a feed that has always been empty.
fn never() -> String {
    "1970-01-01T00:00:00.000000Z".to_owned()
}

/// The paths of a feed and of the page about the same.
fn paths(region: Option<&str>, component: Option<ComponentId>) -> (String, String) {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    region.map(|region| query.append_pair("region", region));
    let of_region = query.finish();
    let mut query = url::form_urlencoded::Serializer::new(of_region.clone());
    component.map(|id| query.append_pair("component", &id.to_string()));
    let with = |path: &str, query: &str| match query {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    let page = match component {
        Some(id) => format!("components/{id}"),
        None => with("", &of_region),
    };
    (with("feed.atom", &query.finish()), page)
}

fn entries(
    events: &[PageEvent],
    names: &Names<'_>,
    root: &str,
    now: Timestamp,
) -> Result<Vec<Entry>, ListError> {
    let entry = |event: &PageEvent| {
        let view = EventView::new(event, names, root, now);
        let incident = &event.event.incident;
        let newest = incident.update_times.first().copied().unwrap_or(incident.start_date);
        let ended = incident.end_date.filter(|end| *end <= now).unwrap_or(newest);
        let mut content = Vec::new();
        EntryHtml { event: &view }.write_into(&mut content)?;
        Ok(Entry {
            id: view.id,
            title: xml::clean(&view.title),
            word: view.level.class(),
            published: rfc3339(incident.start_date),
            updated: rfc3339(newest.max(incident.start_date).max(ended)),
            content: xml::clean(&String::from_utf8_lossy(&content)),
        })
    };
    events.iter().map(entry).collect()
}

/// A time as Atom has it, which knows the years 0 to 9999.
fn rfc3339(time: Timestamp) -> String {
    Some(time.to_the_microsecond()).filter(|text| text.len() == 27).unwrap_or_else(never)
}
