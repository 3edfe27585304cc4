//! `GET /v2/events`: incidents and maintenances, newest start first.

use std::{pin::pin, sync::Arc};

use axum::{extract::State, response::Response};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use utoipa::ToSchema;

use super::{
    event::EventJson,
    event_query::{self, Parameters},
};
use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader},
    lists::{self, Asked, DependsOn, ListError, ListKind, ListWriter},
    store::{
        event_counts::EventCounts,
        events::{Event, EventFilter, Page},
        version::Version,
    },
};

/// The status of an event changes when it starts and when it ends.
const DEPENDS_ON: DependsOn = DependsOn::Windows;

/// A page of events.
#[derive(ToSchema)]
#[schema(as = Events)]
#[expect(dead_code, reason = "describes what is written piece by piece")]
struct EventsJson<'a> {
    /// Newest start first.
    data: Vec<EventJson<'a>>,
    pagination: PaginationJson,
}

/// Which page it is.
#[derive(Serialize, ToSchema)]
#[schema(as = Pagination)]
#[serde(rename_all = "camelCase")]
struct PaginationJson {
    /// From 1.
    page_index: u32,
    /// The number of events on a full page.
    records_per_page: u32,
    /// The number of all events that match.
    total_records: u64,
    /// The number of pages that have events.
    total_pages: u64,
}

/// List the incidents and maintenances, page by page
///
/// Newest start first. The answer has every change that was committed before the request, also by other programs.
/// Pages with the same `ETag` are parts of one state: together they have every event once.
#[utoipa::path(
    get,
    path = "/v2/events",
    operation_id = "events",
    params(Parameters),
    responses(
        (status = 200, description = "The events", body = EventsJson,
            headers(("ETag"))),
        (status = 400, description = "A parameter is invalid"),
        (status = 503, description = "The database can't be read now, or too many large lists are being read"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let (filter, page) = event_query::read(&reader.uri)?;
    let list = format!("v2 events {filter:?} {page:?}");
    let asked = Asked { reader: &reader, list, kind: ListKind::All, depends_on: DEPENDS_ON };
    let counts = app.event_counts.clone();
    lists::serve(&app.lists, asked, move |database, writer| {
        Box::pin(write_page(database, counts, filter, page, writer))
    })
    .await
}

async fn write_page(
    database: &mut PgConnection,
    counts: Arc<EventCounts>,
    filter: EventFilter,
    page: Page,
    writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let key = format!("{filter:?}");
    let mut counted = counts.last(&key);
    loop {
        let mut rows = filter.page(page, counted.is_none()).fetch(&mut *database);
        let first = rows.try_next().await?.ok_or(sqlx::Error::RowNotFound)?;
        let version = Version::from_row(&first)?.of_list(DEPENDS_ON);
        let total = match counted {
            Some((at, total)) if at == version => total,
            // Something has changed since.
            Some(_) => {
                counted = None;
                continue;
            }
            None => {
                let total = first.try_get::<i64, _>("total")?.unsigned_abs();
                counts.keep(key, version, total);
                total
            }
        };
        writer.is_of(version)?;
        let rows = stream::once(async { Ok(first) }).chain(rows);
        return write_rows(pin!(rows), page, total, writer).await;
    }
}

async fn write_rows(
    mut rows: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
    page: Page,
    total_records: u64,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let mut is_first = true;
    writer.buffer().extend_from_slice(b"{\"data\":[");
    while let Some(row) = rows.try_next().await? {
        if row.try_get::<Option<i32>, _>("id")?.is_none() {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            writer.buffer().push(b',');
        }
        serde_json::to_writer(writer.buffer(), &EventJson::new(&Event::from_row(&row)?))?;
        writer.advance().await?;
    }
    let pagination = PaginationJson {
        page_index: page.index,
        records_per_page: page.size,
        total_records,
        total_pages: total_records.div_ceil(u64::from(page.size)),
    };
    writer.buffer().extend_from_slice(b"],\"pagination\":");
    serde_json::to_writer(writer.buffer(), &pagination)?;
    writer.buffer().push(b'}');
    Ok(writer)
}
