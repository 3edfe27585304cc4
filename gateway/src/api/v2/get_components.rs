//! `GET /v2/components`: the components.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::Serialize;
use shared::{
    database::components,
    domain::component::{Component, ComponentId},
};
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::{
    gateway::App,
    http::{error::ApiError, reader::Reader, schema},
    lists::{self, Asked, DependsOn, ListError, ListKind, ListWriter},
};

/// A component.
#[derive(Serialize, ToSchema)]
#[schema(as = CatalogueComponent)]
struct ComponentJson<'a> {
    /// Its id, which no other component ever gets.
    #[schema(value_type = i32)]
    id: ComponentId,
    /// Its name.
    name: &'a str,
    /// In the order of the catalogue.
    attributes: Vec<schema::Attribute>,
}

/// List the components
///
/// Ordered by id.
#[utoipa::path(
    get,
    path = "/v2/components",
    operation_id = "components_v2",
    responses(
        (status = 200, description = "The components", body = [ComponentJson],
            headers(("ETag"))),
        (status = 503, description = "The database can't be read now, or too many large lists are being read"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let (list, kind) = ("v2 components".to_owned(), ListKind::All);
    let asked = Asked { reader: &reader, list, kind, depends_on: DependsOn::Rows };
    lists::serve(&app.lists, asked, |database, writer| Box::pin(write(database, writer))).await
}

async fn write(
    database: &mut PgConnection,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let components = components::read_all(database).await?;
    writer.buffer().push(b'[');
    for (place, component) in components.into_iter().enumerate() {
        if place > 0 {
            writer.buffer().push(b',');
        }
        let Component { id, name, attributes } = component;
        let attributes = attributes.into_iter().map(schema::Attribute::from).collect();
        serde_json::to_writer(writer.buffer(), &ComponentJson { id, name: &name, attributes })?;
        writer.advance().await?;
    }
    writer.buffer().push(b']');
    Ok(writer)
}
