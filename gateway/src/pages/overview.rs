//! `GET /`: what is wrong now, in one sentence, and then in detail.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};
use shared::domain::{component::Component, timestamp::Timestamp};

use super::{error::page, frame::Frame, table::Table};
use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader},
    lists::{
        ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{
        bars::{self, Affected},
        page_events::{self, Most, PageEvent, Which},
        snapshot::Snapshot,
    },
    uptime::{DAY, Days},
    view::{
        catalogue::{self, AskedRegion},
        event::{EventView, names},
        html::{Grid, Icon},
        level::Level,
    },
};

/// Active incidents and maintenances that are shown, and updates of each of them.
const ACTIVE: Most = Most { events: 51, after: 0, updates: 5 };
/// Maintenances to come that are shown.
const COMING: Most = Most { events: 21, after: 0, updates: 1 };
/// Incidents of the last days that are shown.
const RECENT: Most = Most { events: 101, after: 0, updates: 0 };
/// The last days.
const RECENT_DAYS: usize = 14;

pub(super) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Response {
    let answer = async {
        let region = AskedRegion::of(&reader, &app.catalogue)?;
        // Not while it is written, when it has a connection that others may need.
        let affected = app.bars.of(app.versions.now(Overview::DEPENDS_ON).await?).await;
        let affected = affected.ok_or_else(ApiError::no_database)?;
        let overview = Overview { region, affected, app: app.clone() };
        serve_document(&app.lists, &reader, overview).await
    };
    page(&app, answer.await)
}

struct Overview {
    region: AskedRegion,
    affected: Arc<Affected>,
    app: Arc<App>,
}

#[derive(Template)]
#[template(path = "pages/overview.html")]
struct OverviewPage<'a> {
    frame: Frame,
    headline: Headline,
    icon: Icon,
    incidents: Vec<EventView>,
    maintenances: Vec<EventView>,
    /// Whether there are more active ones than are shown, and more to come.
    has_more: bool,
    has_more_coming: bool,
    table: Table<'a>,
    /// Newest first.
    days: Vec<DayView>,
    recent_days: usize,
    /// Whether there are more of the last days than are shown.
    has_more_recent: bool,
    grid: Grid,
    /// The number of days of a bar.
    bar_days: usize,
    /// The lowest impact that reduces the uptime.
    uptime_word: &'static str,
}

/// The overall state.
struct Headline {
    level: Level,
    text: String,
    /// What else there is; empty if nothing.
    detail: String,
}

/// What started on a day, or several days on which nothing started.
struct DayView {
    date: String,
    /// The first of several days.
    first: Option<String>,
    events: Vec<EventView>,
}

impl Document for Overview {
    const TYPE: &'static str = "text/html; charset=utf-8";

    fn name(&self) -> String {
        format!("page {:?}", self.region)
    }

    async fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> Result<(), ListError> {
        let Self { region, affected, app } = self;
        let all = catalogue::read(state).await?;
        let of = region.ids(&all)?;
        let shown: Vec<&Component> = all.iter().filter(|of| region.has(of)).collect();
        let impacts = page_events::impacts(state).await?;
        // Of the components that are affected.
        let affecting = shown.iter().filter_map(|component| impacts.get(&component.id));
        let levels: Vec<Level> = affecting.copied().map(Level::of).collect();
        let active = page_events::read(state, Which::Active, ACTIVE, of.as_deref()).await?;
        // What is active in a region has a component of it.
        let worst = if of.is_none() { page_events::worst(state).await? } else { None };
        let coming = page_events::read(state, Which::Coming, COMING, of.as_deref()).await?;
        let recent_days = Days::until(state.now, RECENT_DAYS);
        let from = recent_days.begin().unwrap_or(state.now);
        let which = Which::Started(from, state.now.plus_micros(1));
        let recent = page_events::read(state, which, RECENT, of.as_deref()).await?;
        let names = names(&all);
        let frame = Frame::new(&app.pages, state).of_region(&all, &region);
        let headline = Headline::new(&levels, worst.map(Level::of), shown.len());
        let view = |event: &PageEvent| EventView::new(event, &names, &frame.base, state.now);
        let (incidents, running): (Vec<_>, Vec<_>) = active
            .iter()
            .take(ACTIVE.events as usize - 1)
            .map(view)
            .partition(|event: &EventView| !event.is_maintenance);
        let shown_coming = coming.iter().take(COMING.events as usize - 1).map(view);
        let overview = OverviewPage {
            icon: Icon(headline.level),
            headline,
            incidents,
            maintenances: running.into_iter().chain(shown_coming).collect(),
            has_more: active.len() == ACTIVE.events as usize,
            has_more_coming: coming.len() == COMING.events as usize,
            table: Table::new(&shown, &impacts, &affected, state.now),
            recent_days: RECENT_DAYS,
            days: by_day(&recent, state.now),
            has_more_recent: recent.len() == RECENT.events as usize,
            grid: Grid(bars::DAYS),
            bar_days: bars::DAYS,
            uptime_word: Level::of(app.bars.impact()).word(),
            frame,
        };
        overview.write_into(writer.buffer())?;
        Ok(())
    }
}

impl Headline {
    /// `levels` are those of affected components. `worst` is that of everything that is active, also of what has no
    /// component.
    fn new(levels: &[Level], worst: Option<Level>, components: usize) -> Self {
        let level = levels.iter().copied().chain(worst).max().unwrap_or_default();
        let count = |level: Level| levels.iter().filter(|of| **of == level).count();
        let affected = count(level);
        let some =
            if affected == 1 { "1 component".to_owned() } else { format!("{affected} components") };
        let text = match (level, affected) {
            (Level::Operational, _) if components == 0 => "No components are known yet".to_owned(),
            (Level::Operational, _) => "All components are operational".to_owned(),
            (Level::Maintenance, 0) => "Maintenance is in progress".to_owned(),
            (Level::Maintenance, _) => format!("Maintenance of {some}"),
            (Level::Minor, 0) => "There is a minor problem".to_owned(),
            (Level::Minor, _) => format!("Minor problem with {some}"),
            (Level::Major, 0) => "There is a major problem".to_owned(),
            (Level::Major, _) => format!("Major problem with {some}"),
            (Level::Outage, 0) => "There is an outage".to_owned(),
            (Level::Outage, _) => format!("Outage of {some}"),
        };
        let others: Vec<String> = Level::ALL
            .into_iter()
            .filter(|other| *other < level && *other != Level::Operational && count(*other) > 0)
            .map(|other| format!("{} {}", count(other), other.phrase()))
            .collect();
        let well = components - levels.len();
        let mut detail = String::new();
        if !others.is_empty() {
            detail = format!("Also {}. ", others.join(", "));
        }
        if level != Level::Operational {
            detail.push_str(&format!("{well} of {components} components are operational."));
        }
        Self { level, text, detail }
    }
}

/// The last days, newest first, each with what started on it. Days without anything are one.
fn by_day(recent: &[PageEvent], now: Timestamp) -> Vec<DayView> {
    let date = |time: Timestamp| time.to_the_minute().chars().take(10).collect::<String>();
    let is_cut = recent.len() == RECENT.events as usize;
    let mut rest = recent.iter().take(RECENT.events as usize - 1).peekable();
    let mut days: Vec<DayView> = Vec::new();
    for back in 0..RECENT_DAYS as i64 {
        // Of the days before, nothing is known here.
        if is_cut && rest.peek().is_none() {
            break;
        }
        let day = date(now.plus_micros(-back * DAY));
        let mut events = Vec::new();
        while let Some(event) = rest.next_if(|event| date(event.event.incident.start_date) == day) {
            events.push(EventView::line(event, now));
        }
        match days.last_mut() {
            Some(last) if last.events.is_empty() && events.is_empty() => last.first = Some(day),
            Some(_) | None => days.push(DayView { date: day, first: None, events }),
        }
    }
    days
}
