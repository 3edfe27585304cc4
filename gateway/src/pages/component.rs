//! `GET /components/{id}`: one component, now and in the last 12 months.

use std::{collections::BTreeSet, sync::Arc};

use askama::Template;
use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use shared::domain::{
    component::{Attribute, ComponentId},
    timestamp::Timestamp,
};

use super::{error::page, frame::Frame, table::percent};
use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader},
    lists::{
        ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{
        bars,
        page_events::{self, Most, PageEvent, Which},
        snapshot::Snapshot,
    },
    uptime::{Bar, MonthSoFar, last_months},
    view::{
        catalogue,
        catalogue::label,
        event::{EventView, Names, names},
        html::{Days, Grid, Icon, plain},
        level::Level,
    },
};

/// Months that are shown, with the current one.
const MONTHS: usize = 12;
/// Incidents that are shown, and updates of each of them.
const MOST: Most = Most { events: 50, after: 0, updates: 1 };

const GONE: &str = "There is no such component; it may have been removed from the catalogue";

pub(super) async fn get(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    reader: Reader,
) -> Response {
    let answer = async {
        let id = id.ok().and_then(|Path(id)| id.parse().ok());
        let id = id.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, GONE))?;
        let id = ComponentId(id);
        if app.catalogue.lacks(id) {
            return Err(ApiError::new(StatusCode::NOT_FOUND, GONE));
        }
        serve_document(&app.lists, &reader, ComponentDocument { id, app: app.clone() }).await
    };
    page(&app, answer.await)
}

struct ComponentDocument {
    id: ComponentId,
    app: Arc<App>,
}

#[derive(Template)]
#[template(path = "pages/component.html")]
struct ComponentPage<'a> {
    frame: Frame,
    id: i32,
    label: String,
    plain_label: String,
    attributes: &'a [Attribute],
    level: Level,
    icon: Icon,
    /// Those that it is in now.
    active: Vec<EventView>,
    /// Those that have ended, or that it has left.
    earlier: Vec<EventView>,
    months: Vec<MonthView<'a>>,
    grids: Vec<Grid>,
    /// The lowest impact that reduces the uptime.
    uptime_word: &'static str,
}

/// A month of the component.
struct MonthView<'a> {
    name: String,
    days: Days<'a>,
    uptime: String,
}

impl Document for ComponentDocument {
    const TYPE: &'static str = "text/html; charset=utf-8";

    fn name(&self) -> String {
        format!("page component {}", self.id)
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
        let impacts = page_events::impacts(state).await?;
        let events = page_events::read(state, Which::Of(id), MOST, None).await?;
        let ids = with_neighbours(&events, id, state.now);
        let components = catalogue::read_some(state, &ids).await?;
        let names = names(&components);
        let component = *names.get(&id).ok_or(ListError::Gone(GONE))?;
        let months = last_months(state.now, MONTHS);
        let from = months.last().and_then(|month| month.of.begin()).unwrap_or(state.now);
        let intervals = bars::of_component(&mut state.database, id, (from, state.now)).await?;
        let impact = app.bars.impact();
        let bars: Vec<Bar> =
            months.iter().map(|month| month.days().bar(&intervals, impact)).collect();
        let month = |(month, bar): (&MonthSoFar, _)| {
            let Bar { days, uptime }: &Bar = bar;
            let name = month.of.text();
            MonthView {
                days: Days { caption: name.clone(), days: days.into() },
                name,
                uptime: percent(*uptime),
            }
        };
        let lengths: BTreeSet<usize> = bars.iter().map(|bar| bar.days.len()).collect();
        let level = Level::of_worst(impacts.get(&id).copied());
        let frame = Frame::new(&app.pages, state);
        let (active, earlier) = now_and_earlier(&events, id, (&names, &frame.base, state.now));
        let page = ComponentPage {
            id: id.0,
            label: label(component),
            plain_label: plain(&label(component)),
            attributes: &component.attributes,
            level,
            icon: Icon(level),
            active,
            earlier,
            months: months.iter().zip(&bars).map(month).collect(),
            grids: lengths.into_iter().map(Grid).collect(),
            uptime_word: Level::of(impact).word(),
            frame,
        };
        page.write_into(writer.buffer())?;
        Ok(())
    }
}

/// Whether the component is in it now: an incident may go on without it.
fn is_now(event: &PageEvent, id: ComponentId, now: Timestamp) -> bool {
    event.event.is_running(now) && event.event.components.contains(&id)
}

/// The components that are named: it, and those that are in the same incidents now.
fn with_neighbours(events: &[PageEvent], id: ComponentId, now: Timestamp) -> Vec<ComponentId> {
    let active = events.iter().filter(|event| is_now(event, id, now));
    active.flat_map(|event| event.event.components.iter().copied()).chain([id]).collect()
}

/// What the component is in now, and all else.
fn now_and_earlier(
    events: &[PageEvent],
    id: ComponentId,
    (names, base, now): (&Names<'_>, &str, Timestamp),
) -> (Vec<EventView>, Vec<EventView>) {
    let (mut active, mut earlier) = (Vec::new(), Vec::new());
    for event in events {
        if is_now(event, id, now) {
            active.push(EventView::new(event, names, base, now));
        } else {
            earlier.push(EventView::line(event, now));
        }
    }
    (active, earlier)
}
