//! `GET /api/v2/{document}` and `GET /api/v2/{kind}/{document}`: the state as Statuspage has it.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use serde::Serialize;
use shared::domain::component::{Component, ComponentId};

use super::format::{ComponentJson, IncidentJson, PAGE_ID, PageJson, StatusJson, category, time};
use crate::{
    gateway::App,
    http::{address::address, error::ApiError, reader::Reader},
    lists::{
        ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{
        page_events::{self, Most, PageEvent, Which},
        snapshot::Snapshot,
    },
    view::{catalogue, level::Level},
};

/// Incidents or maintenances in a document, and updates of each of them.
const MOST: Most = Most { events: 50, after: 0, updates: 100 };

/// A document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Summary,
    Status,
    Components,
    Incidents,
    Unresolved,
    Maintenances,
    Upcoming,
    Active,
}

impl Name {
    fn of(kind: Option<&str>, document: &str) -> Result<Self, ApiError> {
        match (kind, document) {
            (None, "summary.json") => Ok(Self::Summary),
            (None, "status.json") => Ok(Self::Status),
            (None, "components.json") => Ok(Self::Components),
            (None, "incidents.json") => Ok(Self::Incidents),
            (Some("incidents"), "unresolved.json") => Ok(Self::Unresolved),
            (None, "scheduled-maintenances.json") => Ok(Self::Maintenances),
            (Some("scheduled-maintenances"), "upcoming.json") => Ok(Self::Upcoming),
            (Some("scheduled-maintenances"), "active.json") => Ok(Self::Active),
            _ => Err(ApiError::new(StatusCode::NOT_FOUND, "There is no such document")),
        }
    }

    /// The incidents in it.
    const fn incidents(self) -> Option<Which> {
        match self {
            Self::Summary | Self::Unresolved => Some(Which::ActiveIncidents),
            Self::Incidents => Some(Which::Incidents),
            Self::Status
            | Self::Components
            | Self::Maintenances
            | Self::Upcoming
            | Self::Active => None,
        }
    }

    /// The maintenances in it.
    const fn maintenances(self) -> Option<Which> {
        match self {
            Self::Summary => Some(Which::OpenMaintenances),
            Self::Maintenances => Some(Which::AllMaintenances),
            Self::Upcoming => Some(Which::Coming),
            Self::Active => Some(Which::ActiveMaintenances),
            Self::Status | Self::Components | Self::Incidents | Self::Unresolved => None,
        }
    }
}

/// Show the state as Statuspage does
///
/// In the format of Statuspage's public API v2: `summary.json`, `status.json`, `components.json`, `incidents.json`
/// and `scheduled-maintenances.json`. At most 50 incidents and 50 maintenances, newest
/// first; those to come, the next one first.
#[utoipa::path(
    get,
    path = "/api/v2/{document}",
    operation_id = "statuspage",
    params(
        ("document" = String, Path, description = "Its name", example = "summary.json"),
    ),
    responses(
        (status = 200, description = "The document", body = Value,
            headers(("ETag"))),
        (status = 404, description = "There is no such document"),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    document: Result<Path<String>, PathRejection>,
    reader: Reader,
) -> Result<Response, ApiError> {
    let document = document.map(|Path(document)| document).unwrap_or_default();
    answer(app, Name::of(None, &document)?, &reader).await
}

/// Show a part of the incidents or maintenances as Statuspage does
///
/// `incidents/unresolved.json`, `scheduled-maintenances/upcoming.json` and `scheduled-maintenances/active.json`.
#[utoipa::path(
    get,
    path = "/api/v2/{kind}/{document}",
    operation_id = "statuspage_part",
    params(
        ("kind" = String, Path, description = "Of what", example = "incidents"),
        ("document" = String, Path, description = "Its name", example = "unresolved.json"),
    ),
    responses(
        (status = 200, description = "The document", body = Value,
            headers(("ETag"))),
        (status = 404, description = "There is no such document"),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get_part(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    reader: Reader,
) -> Result<Response, ApiError> {
    let (kind, document) = path.map(|Path(path)| path).unwrap_or_default();
    answer(app, Name::of(Some(&kind), &document)?, &reader).await
}

async fn answer(app: Arc<App>, name: Name, reader: &Reader) -> Result<Response, ApiError> {
    let root = address(app.pages.url.as_deref(), &reader.headers);
    serve_document(&app.lists, reader, StatuspageDocument { name, root, app: app.clone() }).await
}

struct StatuspageDocument {
    name: Name,
    /// The address of the service, with a slash at its end.
    root: String,
    app: Arc<App>,
}

/// A document as an object, field by field: with many components, an incident alone may be large.
struct Fields<'w> {
    writer: &'w mut ListWriter,
}

impl<'w> Fields<'w> {
    fn begin(writer: &'w mut ListWriter, page: &PageJson<'_>) -> Result<Self, ListError> {
        writer.buffer().extend_from_slice(b"{\"page\":");
        serde_json::to_writer(writer.buffer(), page)?;
        Ok(Self { writer })
    }

    fn name(&mut self, name: &str) {
        self.writer.buffer().extend_from_slice(format!(",\"{name}\":").as_bytes());
    }

    fn field(&mut self, name: &str, value: &impl Serialize) -> Result<(), ListError> {
        self.name(name);
        Ok(serde_json::to_writer(self.writer.buffer(), value)?)
    }

    /// A field with an array.
    async fn array(
        &mut self,
        name: &str,
        values: impl Iterator<Item = impl Serialize>,
    ) -> Result<(), ListError> {
        self.name(name);
        self.writer.buffer().push(b'[');
        for (place, value) in values.enumerate() {
            if place > 0 {
                self.writer.buffer().push(b',');
            }
            serde_json::to_writer(self.writer.buffer(), &value)?;
            drop(value);
            self.writer.advance().await?;
        }
        self.writer.buffer().push(b']');
        Ok(())
    }

    fn end(self) {
        self.writer.buffer().push(b'}');
    }
}

impl Document for StatuspageDocument {
    const TYPE: &'static str = "application/json";

    fn name(&self) -> String {
        format!("statuspage {:?} {}", self.name, self.root)
    }

    fn has_addresses(&self) -> bool {
        self.app.pages.url.is_none()
    }

    async fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> Result<(), ListError> {
        let Self { name, root, app } = self;
        let page = PageJson {
            id: PAGE_ID,
            name: &app.pages.title,
            url: &root,
            time_zone: "Etc/UTC",
            updated_at: time(state.now),
        };
        let mut fields = Fields::begin(writer, &page)?;
        if name != Name::Status {
            write_arrays(name, &root, state, &mut fields).await?;
        }
        if matches!(name, Name::Summary | Name::Status) {
            let worst = page_events::worst(state).await?;
            fields.field("status", &StatusJson::from(Level::of_worst(worst)))?;
        }
        fields.end();
        Ok(())
    }
}

/// The components, incidents and maintenances of a document.
async fn write_arrays(
    name: Name,
    root: &str,
    state: &mut Snapshot<'_>,
    fields: &mut Fields<'_>,
) -> Result<(), ListError> {
    let all = catalogue::read(state).await?;
    let impacts = page_events::impacts(state).await?;
    let level = |component: &Component| Level::of_worst(impacts.get(&component.id).copied());
    let components: Vec<ComponentJson> = all
        .iter()
        .zip(1..)
        .map(|(component, position)| ComponentJson::new(component, position, level(component)))
        .collect();
    let by_id = all.iter().map(|component| component.id).zip(&components).collect();
    let now = state.now;
    let incident = |event: &PageEvent| IncidentJson::new(event, &by_id, root, now);
    if matches!(name, Name::Summary | Name::Components) {
        let groups = groups(&all, level);
        fields.array("components", components.iter().chain(&groups)).await?;
    }
    if let Some(which) = name.incidents() {
        let events = page_events::read(state, which, MOST, None).await?;
        fields.array("incidents", events.iter().map(incident)).await?;
    }
    if let Some(which) = name.maintenances() {
        let events = page_events::read(state, which, MOST, None).await?;
        fields.array("scheduled_maintenances", events.iter().map(incident)).await?;
    }
    Ok(())
}

/// The categories as groups, each as bad as its worst component.
fn groups(all: &[Component], level: impl Fn(&Component) -> Level) -> Vec<ComponentJson> {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: HashMap<&str, (Vec<ComponentId>, Level)> = HashMap::new();
    for (component, category) in all.iter().filter_map(|c| category(c).map(|of| (c, of))) {
        let group = groups.entry(category).or_insert_with(|| {
            order.push(category);
            Default::default()
        });
        group.0.push(component.id);
        group.1 = group.1.max(level(component));
    }
    let group = |(name, position)| {
        let (ids, level) = groups.get(name)?;
        Some(ComponentJson::group(name, ids, position, *level))
    };
    order.into_iter().zip(all.len() + 1..).filter_map(group).collect()
}
