//! `GET /maintenance.ics`: maintenances as a calendar.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use icalendar::{Calendar, Component as _, Event, EventStatus};
use shared::domain::timestamp::Timestamp;
use utoipa::IntoParams;

use crate::{
    gateway::App,
    http::{address::address, error::ApiError, reader::Reader},
    lists::{
        DependsOn, ListError, ListWriter,
        serve_document::{Document, serve_document},
    },
    store::{
        page_events::{self, Most, PageEvent, Which},
        snapshot::Snapshot,
    },
    uptime::DAY,
    view::{
        catalogue::{self, AskedRegion},
        event::{Names, named, names, title},
        html::{plain, without_markup},
    },
};

/// Maintenances, and updates of each of them.
const MOST: Most = Most { events: 500, after: 0, updates: 1 };
/// Those that ended longer ago are left out, in microseconds.
const KEPT: i64 = 90 * DAY;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `AskedRegion` takes")]
struct Parameters {
    /// Only maintenances of components in this region.
    #[param(max_length = 255)]
    region: Option<String>,
}

/// Maintenances as a calendar
///
/// Those to come, those that are running, and those that ended within 90 days, at most 500. One that was given an end
/// before its start is cancelled.
#[utoipa::path(
    get,
    path = "/maintenance.ics",
    operation_id = "calendar",
    params(Parameters),
    responses(
        (status = 200, description = "The calendar", body = String, content_type = "text/calendar; charset=utf-8",
            headers(("ETag"))),
        (status = 404, description = "There is no such region"),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let region = AskedRegion::of(&reader, &app.catalogue)?;
    let root = address(app.pages.url.as_deref(), &reader.headers);
    serve_document(&app.lists, &reader, Maintenances { root, region, app: app.clone() }).await
}

struct Maintenances {
    /// The address of the service, with a slash at its end.
    root: String,
    region: AskedRegion,
    app: Arc<App>,
}

impl Document for Maintenances {
    const TYPE: &'static str = "text/calendar; charset=utf-8";
    // Readers that poll find that nothing has changed.
    const DEPENDS_ON: DependsOn = DependsOn::Recent;

    fn name(&self) -> String {
        format!("calendar {} {:?}", self.root, self.region)
    }

    fn has_addresses(&self) -> bool {
        self.app.pages.url.is_none()
    }

    async fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> Result<(), ListError> {
        let Self { root, region, app } = self;
        let all = catalogue::read(state).await?;
        let of = region.ids(&all)?;
        let which = Which::Maintenances(state.now.plus_micros(-KEPT));
        let events = page_events::read(state, which, MOST, of.as_deref()).await?;
        let names = names(&all);
        let mut calendar = Calendar::new();
        calendar.name(&plain(&app.pages.title));
        let host = host(app.pages.url.as_deref());
        let about =
            About { root: &root, host: &host, changes: state.version.changes(), now: state.now };
        for event in events.iter().filter_map(|event| entry(event, &names, &about)) {
            calendar.push(event);
        }
        writer.buffer().extend_from_slice(calendar.to_string().as_bytes());
        Ok(())
    }
}

/// What all maintenances of a calendar have in common.
struct About<'a> {
    root: &'a str,
    /// The host in their ids.
    host: &'a str,
    /// The number of changes of the lists: it counts every change of each maintenance, by any program.
    changes: i64,
    now: Timestamp,
}

/// A maintenance; none if a calendar can't have its start.
fn entry(event: &PageEvent, names: &Names<'_>, about: &About<'_>) -> Option<Event> {
    let About { root, host, changes, now } = about;
    let event = &event.event;
    let incident = &event.incident;
    let start = utc(incident.start_date)?;
    let is_cancelled = event.is_cancelled();
    let (named, _) = named(&event.components, names, usize::MAX);
    let labels = named.into_iter().map(|named| named.label);
    let text = incident.update_texts.first().map(|text| without_markup(text)).unwrap_or_default();
    let lines: Vec<String> = labels.chain([text]).filter(|line| !line.is_empty()).collect();
    let mut entry = Event::new();
    entry
        .uid(&format!("maintenance-{}@{}", incident.id, host))
        .sequence(u32::try_from((*changes).clamp(0, i64::from(i32::MAX))).unwrap_or_default())
        .summary(&plain(&title(&incident.text)))
        .description(&lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n"))
        .add_property("DTSTAMP", utc(*now).unwrap_or_else(|| start.clone()))
        .add_property("DTSTART", start)
        .add_property("URL", format!("{root}incidents/{}", incident.id))
        .status(if is_cancelled { EventStatus::Cancelled } else { EventStatus::Confirmed });
    if let Some(end) = incident.end_date.filter(|_| !is_cancelled).and_then(utc) {
        entry.add_property("DTEND", end);
    }
    Some(entry.done())
}

/// A time as calendars have it, which know the years 1 to 9999.
fn utc(time: Timestamp) -> Option<String> {
    let text = time.to_the_microsecond();
    let seconds = text.get(..19).filter(|_| text.len() == 27)?;
    Some(format!("{}Z", seconds.replace(['-', ':'], "")))
}

/// The host of the configured address. Without one it is the same for all requests, so that ids stay.
fn host(configured: Option<&str>) -> String {
    let url = configured.and_then(|address| url::Url::parse(address).ok());
    url.and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_else(|| "status-dashboard".to_owned())
}
