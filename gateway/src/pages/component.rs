//! `GET /components/{id}`: one component, now and in the last 12 months.

use std::{collections::BTreeSet, sync::Arc};

use askama::Template;
use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use shared::domain::{
    component::{Attribute, ComponentId},
    timestamp::Timestamp,
};

use super::{error::page, frame::Frame, table::percent};
use crate::{
    gateway::App,
    http::reader::Reader,
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
        catalogue::{self, NO_COMPONENT, known_component, label},
        event::{EventView, names},
        html::{Days, Grid, Icon, plain},
        level::Level,
    },
};

/// Months that are shown, with the current one.
const MONTHS: usize = 12;
/// Incidents that are shown, and updates of each of them.
const MOST: Most = Most { events: 50, after: 0, updates: 1 };

pub(super) async fn get(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    reader: Reader,
) -> Response {
    let answer = async {
        let id = id.ok().and_then(|Path(id)| id.parse().ok().map(ComponentId));
        let id = known_component(id, &app.catalogue)?;
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

impl<'a> MonthView<'a> {
    fn new((month, Bar { days, uptime }): (&MonthSoFar, &'a Bar)) -> Self {
        let name = month.of.text();
        Self {
            days: Days { caption: name.clone(), days: days.into() },
            name,
            uptime: percent(*uptime),
        }
    }
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
        let (active, earlier): (Vec<_>, Vec<_>) =
            events.iter().partition(|event| is_now(event, id, state.now));
        // Those that are named.
        let neighbours = active.iter().flat_map(|event| event.event.components.iter().copied());
        let ids: Vec<ComponentId> = neighbours.chain([id]).collect();
        let components = catalogue::read_some(state, &ids).await?;
        let names = names(&components);
        let component = *names.get(&id).ok_or(ListError::Gone(NO_COMPONENT))?;
        let months = last_months(state.now, MONTHS);
        let from = months.last().and_then(|month| month.of.begin()).unwrap_or(state.now);
        let intervals = bars::of_component(&mut state.database, id, (from, state.now)).await?;
        let impact = app.bars.impact();
        let bars: Vec<Bar> =
            months.iter().map(|month| month.days().bar(&intervals, impact)).collect();
        let lengths: BTreeSet<usize> = bars.iter().map(|bar| bar.days.len()).collect();
        let level = Level::of_worst(impacts.get(&id).copied());
        let frame = Frame::new(&app.pages, state);
        let view = |event: &PageEvent| EventView::new(event, &names, &frame.base, state.now);
        let line = |event: &PageEvent| EventView::line(event, state.now);
        let page = ComponentPage {
            id: id.0,
            label: label(component),
            plain_label: plain(&label(component)),
            attributes: &component.attributes,
            level,
            icon: Icon(level),
            active: active.into_iter().map(view).collect(),
            earlier: earlier.into_iter().map(line).collect(),
            months: months.iter().zip(&bars).map(MonthView::new).collect(),
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
