//! `GET /api/v1/component_status`: the components with their incidents.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use futures_util::TryStreamExt;
use serde::Serialize;
use shared::{
    database,
    domain::{
        component::{Attribute, ComponentId},
        incident::IncidentId,
    },
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use utoipa::{IntoParams, ToSchema};

use crate::{
    gateway::App,
    http::{
        error::ApiError,
        query::{Query, Switch},
        reader::Reader,
        schema,
    },
    lists::{self, Asked, DependsOn, ListError, ListKind, ListWriter},
    store::{
        components::{ComponentFilter, ComponentSelection},
        incidents::Incident,
    },
    view::incident_json::IncidentJson,
};

const GONE: ListError = ListError::Gone("Component does not exist");

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct Parameters {
    /// Only components whose name begins with this text. With an attribute, only the one with exactly this name.
    name: Option<String>,
    /// Only components with this attribute.
    #[param(max_length = 255)]
    attribute_name: Option<String>,
    /// The value of that attribute: required with `attribute_name`, and only allowed with it.
    #[param(max_length = 255)]
    attribute_value: Option<String>,
    /// Only incidents that are active now: they have started, and have no end or one in the future.
    #[param(required = false, value_type = Switch, inline)]
    active: bool,
}

/// A list of components, or one component if both a name and an attribute are given.
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
    /// Its id.
    #[schema(value_type = i32)]
    id: ComponentId,
    /// Its name.
    name: &'a str,
    /// In the order of the catalogue.
    #[schema(value_type = Vec<schema::Attribute>)]
    attributes: &'a serde_json::Value,
    /// Its incidents and maintenances, newest start first.
    // They are written one by one, in the place of this.
    #[schema(value_type = Vec<IncidentJson>)]
    incidents: Option<()>,
}

/// List the components with their incidents
///
/// Ordered by id. The answer has every change that was committed before the request, also by other programs.
#[utoipa::path(
    get,
    path = "/api/v1/component_status",
    operation_id = "component_status",
    params(Parameters),
    responses(
        (status = 200, description = "The components; with a name and an attribute a single object, the \
            component of the lowest id", body = Answer, headers(("ETag"))),
        (status = 404, description = "No component has this name and this attribute"),
        (status = 422, description = "A parameter is invalid, or `attribute_name` or `attribute_value` is missing"),
        (status = 503, description = "The database can't be read now, or too many large lists are being read"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>, reader: Reader) -> Result<Response, ApiError> {
    let mut query = Query::new(&reader.uri);
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
    let depends_on = if active { DependsOn::Windows } else { DependsOn::Rows };
    let asked = Asked { reader: &reader, list, kind, depends_on };
    lists::serve(&app.lists, asked, move |database, writer| {
        Box::pin(write(database, which, active, writer))
    })
    .await
}

/// Writes component by component, each with its incidents, newest start first.
async fn write(
    database: &mut PgConnection,
    which: ComponentFilter,
    active: bool,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let one = matches!(which, ComponentFilter::One(..));
    let selection = ComponentSelection::of(database, which, active).await?.ok_or(GONE)?;
    let mut rows = selection.rows().fetch(database);
    let mut written = WrittenSoFar::default();
    if !one {
        writer.buffer().push(b'[');
    }
    loop {
        let row = match rows.try_next().await {
            // It is answered before the first row.
            Err(error) if written.component.is_none() && database::lacks_characters(&error) => None,
            row => row?,
        };
        let Some(row) = row else { break };
        written.add(&mut writer, &row)?;
        writer.advance().await?;
    }
    match written.component {
        Some(_) => writer.buffer().extend_from_slice(b"]}"),
        None if one => return Err(GONE),
        None => {}
    }
    if !one {
        writer.buffer().push(b']');
    }
    Ok(writer)
}

/// What is written so far.
#[derive(Default)]
struct WrittenSoFar {
    /// The last component, which is not ended yet.
    component: Option<ComponentId>,
    /// Whether it has an incident already.
    has_incidents: bool,
}

impl WrittenSoFar {
    /// Writes a row: an incident of a component, or a component without incidents.
    fn add(&mut self, writer: &mut ListWriter, row: &PgRow) -> Result<(), ListError> {
        let id: ComponentId = row.try_get("component_id")?;
        if self.component != Some(id) {
            if self.component.is_some() {
                writer.buffer().extend_from_slice(b"]},");
            }
            *self = Self { component: Some(id), has_incidents: false };
            begin(writer, id, row)?;
        }
        let incident: Option<IncidentId> = row.try_get("id")?;
        if incident.is_some() {
            if std::mem::replace(&mut self.has_incidents, true) {
                writer.buffer().push(b',');
            }
            serde_json::to_writer(writer.buffer(), &Incident::from_row(row)?)?;
        }
        Ok(())
    }
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
