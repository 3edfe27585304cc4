//! `GET /api/v1/component_status`: the components with their incidents.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use futures_util::TryStreamExt;
use serde::Serialize;
use shared::{
    component::{Attribute, ComponentId},
    database,
    incident::IncidentId,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use utoipa::{IntoParams, ToSchema};

use crate::{
    gateway::App,
    http::{
        error::ApiError,
        query::{Query, Switch},
        schema,
        transfer::Transfer,
    },
    lists::{self, Asked, ListError, ListKind, ListWriter},
    store::{
        components::{ComponentFilter, ComponentSelection},
        incidents::{self, Incident},
        pools::Pool,
    },
};

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct Parameters {
    /// Only components whose name begins so; with an attribute, the one with exactly this name.
    name: Option<String>,
    /// Only components with this attribute.
    #[param(max_length = 255)]
    attribute_name: Option<String>,
    /// Its value: the two go together.
    #[param(max_length = 255)]
    attribute_value: Option<String>,
    /// Only incidents that are active now: started, and with no end or an end to come.
    #[param(required = false, value_type = Switch, inline)]
    active: bool,
}

/// All components that are asked for, or the one.
#[derive(ToSchema)]
#[schema(as = Components)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written piece by piece")]
enum Answer {
    All(Vec<ComponentJson<'static>>),
    One(ComponentJson<'static>),
}

/// A component with its incidents, newest start first.
#[derive(Serialize, ToSchema)]
#[schema(as = ComponentStatus)]
struct ComponentJson<'a> {
    #[schema(value_type = i32)]
    id: ComponentId,
    name: &'a str,
    /// In the order of the catalogue.
    #[schema(value_type = Vec<schema::Attribute>)]
    attributes: &'a serde_json::Value,
    /// Written one by one, in the place of this.
    #[schema(value_type = Vec<incidents::IncidentJson>)]
    incidents: Option<()>,
}

/// The components with their incidents
///
/// Ordered by id, and as the last change left them, also one by another program.
#[utoipa::path(
    get,
    path = "/api/v1/component_status",
    operation_id = "component_status",
    params(
        Parameters,
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the list that is there"),
    ),
    responses(
        (status = 200, description = "The components; with a name and an attribute one object, that of \
            the lowest id", body = Answer, headers(("ETag"), ("Vary"), ("Content-Encoding"))),
        (status = 304, description = "Nothing changed", headers(("ETag"), ("Vary"))),
        (status = 404, description = "No component has this name and this attribute"),
        (status = 422, description = "A parameter can't be used, or one goes without the other"),
        (status = 503, description = "The database can't be read now, or too many large lists are being read"),
    ),
)]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(transfer): Extension<Arc<Transfer>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut query = Query::new(&uri);
    let Parameters { name, attribute_name, attribute_value, active } = Parameters {
        name: query.text("name"),
        attribute_name: query.attribute_text("attribute_name"),
        attribute_value: query.attribute_text("attribute_value"),
        active: query.switch("active"),
    };
    let attribute = match (attribute_name, attribute_value) {
        (Some(name), Some(value)) => Some(Attribute { name, value }),
        (None, None) => None,
        (Some(_), None) => {
            query.refuse("attribute_value", "Missing: it goes with attribute_name.");
            None
        }
        (None, Some(_)) => {
            query.refuse("attribute_name", "Missing: it goes with attribute_value.");
            None
        }
    };
    query.finish()?;

    let which = match (name, attribute) {
        (Some(name), Some(attribute)) => ComponentFilter::One(name, attribute),
        (None, Some(attribute)) => ComponentFilter::With(attribute),
        (name, None) => ComponentFilter::Prefix(name.unwrap_or_default()),
    };
    let list = format!("component_status {active} {which:?}");
    let kind =
        if matches!(which, ComponentFilter::One(..)) { ListKind::One } else { ListKind::All };
    let (method, headers, transfer) = (&method, &headers, &transfer);
    let asked = Asked { method, headers, transfer, list, kind, active };
    let database = app.lists.database.clone();
    lists::serve(&app.lists, asked, move |writer| write(database, which, active, writer)).await
}

/// Writes component by component, each with its incidents, newest start first.
async fn write(
    database: Pool,
    which: ComponentFilter,
    active: bool,
    writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let mut connection = lists::lend(&database).await?;
    let written = write_rows(&mut connection, which, active, writer).await;
    lists::give_back(connection, written).await
}

async fn write_rows(
    database: &mut PgConnection,
    which: ComponentFilter,
    active: bool,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let one = matches!(which, ComponentFilter::One(..));
    let selection =
        ComponentSelection::of(database, which, active).await?.ok_or(ListError::Gone)?;
    let mut rows = selection.rows().fetch(database);
    let mut current: Option<ComponentId> = None;
    let mut has_incidents = false;
    if !one {
        writer.buffer().push(b'[');
    }
    loop {
        let row = match rows.try_next().await {
            // It is answered before the first row.
            Err(error) if current.is_none() && database::lacks_characters(&error) => None,
            row => row?,
        };
        let Some(row) = row else { break };
        let id: ComponentId = row.try_get("component_id")?;
        if current != Some(id) {
            if current.is_some() {
                writer.buffer().extend_from_slice(b"]},");
            }
            current = Some(id);
            has_incidents = false;
            begin(&mut writer, id, &row)?;
        }
        let incident: Option<IncidentId> = row.try_get("id")?;
        if incident.is_some() {
            if std::mem::replace(&mut has_incidents, true) {
                writer.buffer().push(b',');
            }
            serde_json::to_writer(writer.buffer(), &Incident::from_row(&row)?)?;
        }
        writer.advance().await?;
    }
    match current {
        Some(_) => writer.buffer().extend_from_slice(b"]}"),
        None if one => return Err(ListError::Gone),
        None => {}
    }
    if !one {
        writer.buffer().push(b']');
    }
    Ok(writer)
}

/// Begins a component; its incidents and `]}` follow.
fn begin(writer: &mut ListWriter, id: ComponentId, row: &PgRow) -> Result<(), ListError> {
    let name: String = row.try_get("component_name")?;
    let attributes: sqlx::types::Json<serde_json::Value> = row.try_get("attributes")?;
    let buffer = writer.buffer();
    let component = ComponentJson { id, name: &name, attributes: &attributes.0, incidents: None };
    serde_json::to_writer(&mut *buffer, &component)?;
    // The incidents take the place of the `null` that ends it.
    buffer.truncate(buffer.len() - "null}".len());
    buffer.push(b'[');
    Ok(())
}
