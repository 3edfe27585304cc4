//! `GET /incidents/{id}`: an incident or a maintenance. The texts of updates link to it.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};

use super::{error::page, frame::Frame};
use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader},
    lists::{
        ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{
        bars::{self, Part},
        page_events::{self, Most, Which},
        snapshot::Snapshot,
    },
    view::{
        catalogue,
        catalogue::label,
        event::{EventView, Names, names},
        html::{Time, plain},
    },
};

/// The updates that are shown.
const MOST: Most = Most { events: 1, after: 0, updates: 1_000 };

pub(super) const GONE: &str = "There is no such incident; it may have been deleted";

pub(super) async fn get(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    reader: Reader,
) -> Response {
    let answer = async {
        let id = id.ok().and_then(|Path(id)| id.parse().ok());
        let id = id.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, GONE))?;
        serve_document(&app.lists, &reader, IncidentDocument { id, app: app.clone() }).await
    };
    page(&app, answer.await)
}

struct IncidentDocument {
    id: i32,
    app: Arc<App>,
}

#[derive(Template)]
#[template(path = "pages/incident.html")]
struct IncidentPage {
    frame: Frame,
    /// The title without marks.
    plain_title: String,
    event: EventView,
    parts: Vec<PartView>,
    /// None if there is none.
    first_update: Option<Time>,
}

/// When a component was in it.
struct PartView {
    id: i32,
    label: String,
    began: Time,
    ended: Option<Time>,
}

impl PartView {
    fn new(part: &Part, names: &Names<'_>) -> Option<Self> {
        let component = names.get(&part.component_id)?;
        let (began, ended) = (Time(part.began), part.ended.map(Time));
        Some(Self { id: component.id.0, label: label(component), began, ended })
    }
}

impl Document for IncidentDocument {
    const TYPE: &'static str = "text/html; charset=utf-8";

    fn name(&self) -> String {
        format!("page incident {}", self.id)
    }

    fn is_one_of_many(&self) -> bool {
        true
    }

    async fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> Result<(), ListError> {
        let Self { id, app } = self;
        let found = page_events::read(state, Which::One(id), MOST, None).await?;
        let event = found.into_iter().next().ok_or(ListError::Gone(GONE))?;
        let parts = bars::of_incident(&mut state.database, id).await?;
        // Also those that are in it without an interval: it may not be compared yet.
        let all = event.event.components.iter().copied();
        let all: Vec<_> = parts.iter().map(|part| part.component_id).chain(all).collect();
        let components = catalogue::read_some(state, &all).await?;
        let names = names(&components);
        let frame = Frame::new(&app.pages, state);
        let first_update = page_events::first_update(state, id).await?.map(Time);
        let event = EventView::new(&event, &names, &frame.base, state.now);
        let page = IncidentPage {
            plain_title: plain(&event.title),
            first_update,
            parts: parts.iter().filter_map(|part| PartView::new(part, &names)).collect(),
            event,
            frame,
        };
        page.write_into(writer.buffer())?;
        Ok(())
    }
}
