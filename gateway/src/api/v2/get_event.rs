//! `GET /v2/events/{id}`: one incident or maintenance.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use sqlx::{FromRow, PgConnection};

use super::event::EventJson;
use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader},
    lists::{self, Asked, DependsOn, ListError, ListKind, ListWriter},
    store::{
        events::{self, Event},
        version::Version,
    },
};

/// Show one incident or maintenance
#[utoipa::path(
    get,
    path = "/v2/events/{id}",
    operation_id = "event",
    params(
        ("id" = i32, Path, description = "The id of the event"),
    ),
    responses(
        (status = 200, description = "The event", body = EventJson,
            headers(("ETag"))),
        (status = 400, description = "The id is invalid"),
        (status = 404, description = "No event has this id"),
        (status = 503, description = "The database can't be read now"),
    ),
)]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    reader: Reader,
) -> Result<Response, ApiError> {
    let id: Option<i32> = id.ok().and_then(|Path(id)| id.parse().ok());
    let id = id.ok_or_else(|| ApiError::bad_request("event id is not a number"))?;
    let (list, kind) = (format!("v2 event {id}"), ListKind::One);
    let asked = Asked { reader: &reader, list, kind, depends_on: DependsOn::Windows };
    lists::serve(&app.lists, asked, move |database, writer| Box::pin(write(database, id, writer)))
        .await
}

async fn write(
    database: &mut PgConnection,
    id: i32,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let row = events::one(id).fetch_optional(database).await?;
    let row = row.ok_or(ListError::Gone("event does not exist"))?;
    writer.is_of(Version::from_row(&row)?.of_list(DependsOn::Windows))?;
    serde_json::to_writer(writer.buffer(), &EventJson::new(&Event::from_row(&row)?))?;
    Ok(writer)
}
