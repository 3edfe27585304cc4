//! `GET /badge.svg` and `GET /badge/components/{file}`: small pictures of a state for other pages.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use shared::{database::components, domain::component::ComponentId};

use super::xml;
use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader},
    lists::{
        DependsOn, ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{page_events, snapshot::Snapshot},
    view::{
        catalogue::{NO_COMPONENT, known_component, label},
        html::plain,
        level::Level,
    },
};

/// Characters of a name that are shown.
const MOST_CHARACTERS: usize = 40;

/// A badge with the worst state of all components
#[utoipa::path(
    get,
    path = "/badge.svg",
    operation_id = "badge",
    responses(
        (status = 200, description = "The badge", body = String, content_type = "image/svg+xml",
            headers(("ETag"))),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    serve_document(&app.lists, &reader, Badge { id: None, app: app.clone() }).await
}

/// A badge with the state of a component
#[utoipa::path(
    get,
    path = "/badge/components/{file}",
    operation_id = "component_badge",
    params(
        ("file" = String, Path, description = "The id of the component and `.svg`", example = "1.svg"),
    ),
    responses(
        (status = 200, description = "The badge", body = String, content_type = "image/svg+xml",
            headers(("ETag"))),
        (status = 404, description = "There is no such component"),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get_of_component(
    State(app): State<Arc<App>>,
    file: Result<Path<String>, PathRejection>,
    reader: Reader,
) -> Result<Response, ApiError> {
    let id = |Path(file): Path<String>| Some(ComponentId(file.strip_suffix(".svg")?.parse().ok()?));
    let id = known_component(file.ok().and_then(id), &app.catalogue)?;
    serve_document(&app.lists, &reader, Badge { id: Some(id), app: app.clone() }).await
}

struct Badge {
    /// None for all components.
    id: Option<ComponentId>,
    app: Arc<App>,
}

#[derive(Template)]
#[template(path = "badge.svg")]
struct BadgeSvg {
    label: String,
    word: &'static str,
    colour: &'static str,
    /// Widths of both parts, in pixels.
    left: usize,
    right: usize,
}

impl Document for Badge {
    const TYPE: &'static str = "image/svg+xml";
    // Readers that poll find that nothing has changed.
    const DEPENDS_ON: DependsOn = DependsOn::Recent;

    fn name(&self) -> String {
        format!("badge {:?}", self.id)
    }

    async fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> Result<(), ListError> {
        let (name, worst) = match self.id {
            Some(id) => {
                let found = components::read(&mut state.database, &[id]).await?;
                let component = found.first().ok_or(ListError::Gone(NO_COMPONENT))?;
                let impacts = page_events::impacts(state).await?;
                (label(component), impacts.get(&id).copied())
            }
            None => (self.app.pages.title.clone(), page_events::worst(state).await?),
        };
        BadgeSvg::new(&name, Level::of_worst(worst)).write_into(writer.buffer())?;
        Ok(())
    }
}

impl BadgeSvg {
    fn new(name: &str, level: Level) -> Self {
        let name = plain(&xml::clean(name));
        let mut label: String = name.chars().take(MOST_CHARACTERS).collect();
        if label.len() < name.len() {
            label.push('…');
        }
        // White on each of these has a contrast of at least 4.5 : 1.
        let colour = match level {
            Level::Operational => "#1a7f4b",
            Level::Maintenance => "#2b63c6",
            Level::Minor => "#8a6100",
            Level::Major => "#b34700",
            Level::Outage => "#c01530",
        };
        let width = |text: &str| text.chars().count().max(1) * 7 + 12;
        let (left, right) = (width(&label), width(level.word()));
        Self { label, word: level.word(), colour, left, right }
    }
}
