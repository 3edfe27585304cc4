//! `GET /api/v1/incidents`: all incidents and maintenances, newest start first.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, Uri},
    response::Response,
};
use futures_util::TryStreamExt;
use shared::domain::impact::Impact;
use sqlx::PgConnection;
use utoipa::IntoParams;

use crate::{
    gateway::App,
    http::{
        error::ApiError,
        query::{AnyImpact, Cursor, Query, Switch},
        reader::Reader,
    },
    lists::{self, Asked, DependsOn, ListError, ListKind, ListWriter},
    store::incidents::{Incident, IncidentSelection},
    view::incident_json::IncidentJson,
};

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only incidents that are active now: they have started, and have no end or one in the future.
    #[param(required = false, value_type = Switch, inline)]
    active: bool,
    /// Only incidents of this impact, as its number or its word.
    #[param(value_type = Option<AnyImpact>, inline)]
    impact: Option<Impact>,
    /// The number of incidents on a page. Without it the answer has all of them.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<u32>,
    /// Where the page begins. It is in the `Link` header of the page before.
    #[param(rename = "cursor", value_type = Option<String>, pattern = r"^-?(\d{1,19}|infinity)\.-?\d{1,10}$")]
    after: Option<Cursor>,
}

impl Filter {
    fn read(uri: &Uri) -> Result<Self, ApiError> {
        let mut query = Query::new(uri);
        let filter = Self {
            active: query.switch("active"),
            impact: query.impact("impact"),
            limit: query.limit("limit"),
            after: query.cursor("cursor"),
        };
        query.finish()?;
        Ok(filter)
    }

    /// What is asked of the database, up to `limit` incidents.
    fn selection(&self, limit: Option<u32>) -> IncidentSelection {
        let after = self.after.map(|cursor| (cursor.start_date, cursor.id));
        IncidentSelection { active: self.active, impact: self.impact, after, limit }
    }

    /// The address of the page after the one that ends there.
    fn next(&self, limit: u32, last: Cursor) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if self.active {
            query.append_pair("active", "true");
        }
        if let Some(impact) = self.impact {
            query.append_pair("impact", &i16::from(impact).to_string());
        }
        query.append_pair("limit", &limit.to_string());
        query.append_pair("cursor", &last.text());
        format!("</api/v1/incidents?{}>; rel=\"next\"", query.finish())
    }
}

/// List the incidents and maintenances
///
/// Newest start first. The answer has every change that was committed before the request, also by other programs.
#[utoipa::path(
    get,
    path = "/api/v1/incidents",
    operation_id = "incidents",
    params(Filter),
    responses(
        (status = 200, description = "The incidents", body = [IncidentJson],
            headers(("ETag"), ("Link"))),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database can't be read now, or too many large lists are being read"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let filter = Filter::read(&reader.uri)?;
    let list = format!("incidents {filter:?}");
    let kind = if filter.limit.is_some() { ListKind::Page } else { ListKind::All };
    let depends_on = if filter.active { DependsOn::Windows } else { DependsOn::Rows };
    let asked = Asked { reader: &reader, list, kind, depends_on };
    lists::serve(&app.lists, asked, |database, writer| Box::pin(write(database, filter, writer)))
        .await
}

async fn write(
    database: &mut PgConnection,
    filter: Filter,
    writer: ListWriter,
) -> Result<ListWriter, ListError> {
    match filter.limit {
        None => write_all(database, &filter, writer).await,
        Some(limit) => write_page(database, &filter, limit, writer).await,
    }
}

/// All of them.
async fn write_all(
    database: &mut PgConnection,
    filter: &Filter,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let mut rows = filter.selection(None).rows().fetch(database);
    writer.buffer().push(b'[');
    let mut first = true;
    while let Some(incident) = rows.try_next().await? {
        write_one(&mut writer, &incident, &mut first)?;
        writer.advance().await?;
    }
    writer.buffer().push(b']');
    Ok(writer)
}

/// One page, and the address of the next.
async fn write_page(
    database: &mut PgConnection,
    filter: &Filter,
    limit: u32,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    // One more tells whether there is a next page.
    let mut incidents = filter.selection(Some(limit + 1)).rows().fetch_all(database).await?;
    let more = incidents.len() > limit as usize;
    incidents.truncate(limit as usize);
    if let Some(last) = incidents.last().filter(|_| more) {
        let next = filter.next(limit, Cursor { start_date: last.start_date, id: last.id.0 });
        if let Ok(link) = HeaderValue::from_str(&next) {
            writer.next_page(link)?;
        }
    }
    writer.buffer().push(b'[');
    let mut first = true;
    for incident in &incidents {
        write_one(&mut writer, incident, &mut first)?;
        writer.advance().await?;
    }
    writer.buffer().push(b']');
    Ok(writer)
}

fn write_one(
    writer: &mut ListWriter,
    incident: &Incident,
    first: &mut bool,
) -> Result<(), serde_json::Error> {
    if !std::mem::take(first) {
        writer.buffer().push(b',');
    }
    serde_json::to_writer(writer.buffer(), incident)
}
