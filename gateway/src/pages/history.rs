//! `GET /history` and `GET /history/{month}`: what started in a month.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};

use super::{error::page, frame::Frame};
use crate::{
    calendar::CalendarMonth,
    gateway::App,
    http::{error::ApiError, query::Query, reader::Reader},
    lists::{
        ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{
        page_events::{self, Most, Which},
        snapshot::Snapshot,
    },
    view::{
        catalogue::{self, AskedRegion},
        event::{EventView, names},
    },
};

/// Incidents on one page.
const ON_PAGE: u32 = 50;
/// Pages of one month.
const MOST_PAGES: u32 = 10_000;
const GONE: &str = "There is no such month: it is written as in /history/2026-11";
const NOT_YET: ListError = ListError::Gone("That month has not begun");

pub(super) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Response {
    page(&app, answer(&app, None, &reader).await)
}

pub(super) async fn get_month(
    State(app): State<Arc<App>>,
    month: Result<Path<String>, PathRejection>,
    reader: Reader,
) -> Response {
    let month = month.map(|Path(month)| month).unwrap_or_default();
    page(&app, answer(&app, Some(&month), &reader).await)
}

async fn answer(
    app: &Arc<App>,
    month: Option<&str>,
    reader: &Reader,
) -> Result<Response, ApiError> {
    let missing = || ApiError::new(StatusCode::NOT_FOUND, GONE);
    let month = month.map(|month| CalendarMonth::parse(month).ok_or_else(missing)).transpose()?;
    let region = AskedRegion::of(reader, &app.catalogue)?;
    let mut query = Query::new(&reader.uri);
    let number = |text: String| text.parse().ok().filter(|page| (1..=MOST_PAGES).contains(page));
    let page = match query.text("page") {
        Some(text) => number(text).ok_or_else(missing)?,
        None => 1,
    };
    let history = History { month, region, page, app: app.clone() };
    serve_document(&app.lists, reader, history).await
}

struct History {
    /// None for the current one.
    month: Option<CalendarMonth>,
    region: AskedRegion,
    /// From 1.
    page: u32,
    app: Arc<App>,
}

#[derive(Template)]
#[template(path = "pages/history.html")]
struct HistoryPage {
    frame: Frame,
    /// Its path.
    here: String,
    name: String,
    month: String,
    events: Vec<EventView>,
    page: u32,
    has_more: bool,
    /// The last month before it with an incident, and the next one if it has begun: their names and their addresses.
    earlier: Option<(String, String)>,
    later: Option<(String, String)>,
}

impl Document for History {
    const TYPE: &'static str = "text/html; charset=utf-8";

    fn name(&self) -> String {
        let Self { month, region, page, .. } = self;
        format!("page history {month:?} {region:?} {page}")
    }

    fn is_one_of_many(&self) -> bool {
        self.month.is_some() || self.page > 1
    }

    async fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> Result<(), ListError> {
        let Self { month, region, page, app } = self;
        let current = CalendarMonth::of(state.now).ok_or(NOT_YET)?;
        let month = month.unwrap_or(current);
        if month > current {
            return Err(NOT_YET);
        }
        let (begin, end) = (month.begin().ok_or(NOT_YET)?, month.next().begin().ok_or(NOT_YET)?);
        let all = catalogue::read(state).await?;
        let of = region.ids(&all)?;
        let most = Most { events: ON_PAGE + 1, after: (page - 1) * ON_PAGE, updates: 1 };
        let which = Which::Started(begin, end);
        let events = page_events::read(state, which, most, of.as_deref()).await?;
        let before = page_events::last_start_before(state, begin).await?;
        let names = names(&all);
        let frame = Frame::new(&app.pages, state).of_region(&all, &region);
        let link = |month: CalendarMonth| (month.name(), month.text());
        let page = HistoryPage {
            here: format!("{}history/{}", frame.base, month.text()),
            name: month.name(),
            month: month.text(),
            has_more: events.len() > ON_PAGE as usize,
            events: events
                .iter()
                .take(ON_PAGE as usize)
                .map(|event| EventView::new(event, &names, &frame.base, state.now))
                .collect(),
            page,
            earlier: before.and_then(CalendarMonth::of).map(link),
            later: (month < current).then(|| link(month.next())),
            frame,
        };
        page.write_into(writer.buffer())?;
        Ok(())
    }
}
