//! `GET /v2/availability`: how much of each month each component was available.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use futures_util::TryStreamExt;
use serde::Serialize;
use shared::domain::component::ComponentId;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader},
    lists::{self, Asked, DependsOn, ListError, ListKind, ListWriter},
    store::availability::{self, Outages},
    uptime::{MonthSoFar, last_months},
};

/// The number of months, the current one included.
const MONTHS: usize = 12;

/// The availability of the components.
#[derive(ToSchema)]
#[schema(as = Availability)]
#[expect(dead_code, reason = "describes what is written piece by piece")]
struct AvailabilityJson<'a> {
    /// The components in the order of their ids.
    data: Vec<ComponentJson<'a>>,
    /// `true` while outages of before an upgrade may be missing; absent otherwise.
    #[schema(required = false)]
    incomplete: bool,
}

/// A component and its availability.
#[derive(Serialize, ToSchema)]
#[schema(as = ComponentAvailability)]
struct ComponentJson<'a> {
    /// Its id.
    #[schema(value_type = i32)]
    id: ComponentId,
    /// Its name.
    name: &'a str,
    /// The value of its attribute `region`; empty if it has none.
    region: &'a str,
    /// 12 months, the current one first.
    availability: Vec<MonthJson>,
}

/// The availability in a month of the calendar, in UTC.
#[derive(Serialize, ToSchema)]
#[schema(as = MonthlyAvailability)]
struct MonthJson {
    year: i32,
    /// From 1.
    #[schema(minimum = 1, maximum = 12)]
    month: u8,
    /// The share of the month, or of its elapsed part, in which the component was in no incident of impact 3, in
    /// percent with 5 decimals.
    #[schema(minimum = 0, maximum = 100, example = 99.98611)]
    percentage: f64,
}

/// Show the availability of the components
///
/// For each component, the last 12 months with the current one. Incidents that go on count until now. It is as of
/// some moment of the minute: an outage that begins or ends shows a minute later at the latest.
#[utoipa::path(
    get,
    path = "/v2/availability",
    operation_id = "availability",
    responses(
        (status = 200, description = "The availability", body = AvailabilityJson,
            headers(("ETag"))),
        (status = 503, description = "The database can't be read now, or too many large lists are being read"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let (list, kind) = ("v2 availability".to_owned(), ListKind::All);
    let asked = Asked { reader: &reader, list, kind, depends_on: DependsOn::Minutes };
    lists::serve(&app.lists, asked, |database, writer| Box::pin(write(database, writer))).await
}

async fn write(
    database: &mut PgConnection,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let (now, is_incomplete) = availability::now(&mut *database).await?;
    let months = last_months(now, MONTHS);
    let from = months.last().and_then(|month| month.of.begin()).unwrap_or(now);
    let mut rows = availability::outages(from, now).fetch(database);
    writer.buffer().extend_from_slice(b"{\"data\":[");
    let mut is_first = true;
    while let Some(component) = rows.try_next().await? {
        if !std::mem::take(&mut is_first) {
            writer.buffer().push(b',');
        }
        write_one(writer.buffer(), &component, &months)?;
        writer.advance().await?;
    }
    writer.buffer().push(b']');
    if is_incomplete {
        writer.buffer().extend_from_slice(b",\"incomplete\":true");
    }
    writer.buffer().push(b'}');
    Ok(writer)
}

fn write_one(
    buffer: &mut Vec<u8>,
    component: &Outages,
    months: &[MonthSoFar],
) -> Result<(), serde_json::Error> {
    let Outages { id, name, region, began, ended } = component;
    let outages: Vec<_> = began.iter().copied().zip(ended.iter().copied()).collect();
    let availability = months
        .iter()
        .map(|month| MonthJson {
            year: month.of.year,
            month: month.of.month,
            percentage: month.availability(&outages),
        })
        .collect();
    serde_json::to_writer(buffer, &ComponentJson { id: *id, name, region, availability })
}
