//! `GET /rss/`: incidents as RSS, at the address that the Python dashboard has for them.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use futures_util::TryStreamExt;
use sqlx::PgConnection;
use utoipa::IntoParams;

use super::rss::{self, Feed};
use crate::{
    gateway::App,
    http::{address::address, error::ApiError, query::Query, reader::Reader},
    lists::{self, Asked, DependsOn, ListError, ListKind, ListWriter, serve_document::as_document},
    store::feeds::{FeedOf, FeedSelection},
};

const GONE: ListError = ListError::Gone("There is no such region or component");

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `read` takes")]
struct Parameters {
    /// Only incidents of components in this region. Without it, the newest incidents of all.
    #[param(max_length = 255)]
    mt: Option<String>,
    /// Only incidents of the component with this name in that region.
    srv: Option<String>,
}

/// # Errors
/// 404 for a component without a region, 422 if a parameter is invalid.
fn read(uri: &Uri) -> Result<FeedOf, ApiError> {
    let mut query = Query::new(uri);
    let is_there = |text: &String| !text.is_empty();
    let region = query.attribute_text("mt").filter(is_there);
    let name = query.text("srv").filter(is_there);
    query.finish()?;
    match (region, name) {
        (None, None) => Ok(FeedOf::All),
        (Some(region), None) => Ok(FeedOf::Region(region)),
        (Some(region), Some(name)) => Ok(FeedOf::Component(name, region)),
        (None, Some(_)) => {
            let message = "A component needs its region: /rss/?mt=REGION&srv=NAME";
            Err(ApiError::new(StatusCode::NOT_FOUND, message))
        }
    }
}

/// Incidents as RSS
///
/// The newest 10 incidents of all or of a region, or all incidents of a component.
#[utoipa::path(
    get,
    path = "/rss/",
    operation_id = "rss",
    params(Parameters),
    responses(
        (status = 200, description = "The feed", body = String, content_type = "application/rss+xml",
            headers(("ETag"))),
        (status = 404, description = "There is no such region or component"),
        (status = 422, description = "A parameter is invalid"),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let of = read(&reader.uri)?;
    let root = address(app.pages.url.as_deref(), &reader.headers);
    let list = format!("rss {root} {of:?}");
    let (kind, depends_on) = (ListKind::One, DependsOn::Rows);
    let asked = Asked { reader: &reader, list, kind, depends_on };
    let response = lists::serve(&app.lists, asked, |database, writer| {
        Box::pin(write(database, of, root, writer))
    })
    .await?;
    Ok(as_document(response, "application/rss+xml", app.pages.url.is_none()))
}

async fn write(
    database: &mut PgConnection,
    of: FeedOf,
    root: String,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let selection = FeedSelection::read(database, &of).await?.ok_or(GONE)?;
    let (title, description, path) = about(&of);
    let feed = Feed { root: &root, path: &path, title: &title, description: &description };
    writer.buffer().extend_from_slice(feed.begin().as_bytes());
    let mut rows = selection.rows().fetch(database);
    while let Some(incident) = rows.try_next().await? {
        writer.buffer().extend_from_slice(feed.item(&incident).as_bytes());
        writer.advance().await?;
    }
    writer.buffer().extend_from_slice(rss::END.as_bytes());
    Ok(writer)
}

/// Title, description and path of a feed.
fn about(of: &FeedOf) -> (String, String, String) {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let (title, description) = match of {
        FeedOf::All => ("Incidents | Status Dashboard".to_owned(), "Incidents".to_owned()),
        FeedOf::Region(region) => {
            query.append_pair("mt", region);
            (format!("{region} - Incidents | Status Dashboard"), format!("{region} - Incidents"))
        }
        FeedOf::Component(name, region) => {
            query.append_pair("mt", region).append_pair("srv", name);
            let title = format!("{name} ({region}) - Incidents | Status Dashboard");
            (title, format!("{region} - Incidents"))
        }
    };
    let query = query.finish();
    let path = if query.is_empty() { "rss/".to_owned() } else { format!("rss/?{query}") };
    (title, description, path)
}
