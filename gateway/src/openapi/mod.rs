//! The document of the API, OpenAPI 3.1, made from the handlers and the types that they answer with.
//!
//! What is particular to an endpoint is documented at its handler. What many have in common is filled in here:
//! the error body, the meaning of each header, and the scheme of the tokens.

pub(crate) mod page;

use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::{
        Content, Header, Object, Ref, RefOr, Schema, Type,
        link::Link,
        path::{Operation, Parameter, PathItem},
        response::Response,
        schema::SchemaType,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    api::{
        alertmanager::{post_alerts, post_webhook},
        health, metrics,
        v1::{
            get_component_status, get_incidents, get_update, post_component_status, post_updates,
        },
    },
    http::error,
};

/// What applies to every endpoint.
const DESCRIPTION: &str = "\
Monitors post the statuses of components; the service decides which incident each belongs to. Lists \
are public; updates and receipts need a token.\n\n\
HEAD is answered like GET, without the body. Any other method is answered 405, an unknown path 404, \
both with the error body. In a path, several slashes count as one, and `%5F` as `_`; a slash at the \
end makes it another path. `/` redirects to `/api-docs`. A request whose head exceeds 32 KiB or is malformed \
is answered 400, 414 or 431 without a body, and its connection is closed.\n\n\
An answer that leaves the request's body unread has `Connection: close`.";

/// The meaning of each header of an answer.
const HEADERS: [(&str, &str); 10] = [
    ("Update-Id", "The id of the update, a UUIDv7"),
    ("Link", "`rel=\"monitor\"` is the receipt of the update, `rel=\"next\"` the next page"),
    ("Location", "The path of the receipt"),
    ("Retry-After", "Seconds after which to send the request again"),
    ("Preference-Applied", "The preference of `Prefer` that was honoured"),
    ("ETag", "The version of the list in this coding, for `If-None-Match`; always weak"),
    ("Vary", "Always `Accept-Encoding`"),
    ("Content-Encoding", "`gzip` where the client accepts it"),
    ("Accept-Encoding", "Always `identity`: the body must not be compressed"),
    ("WWW-Authenticate", "Always `Bearer`"),
];

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Status Dashboard: ingest and API", description = DESCRIPTION),
    paths(
        post_component_status::post,
        post_updates::post,
        get_component_status::get,
        get_incidents::get,
        get_update::get,
        post_alerts::post,
        post_webhook::post,
        health::healthz,
        health::readyz,
        metrics::get,
    ),
    components(schemas(error::Body)),
    modifiers(&Common),
)]
pub(crate) struct Document;

/// Fills in what many answers have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for operation in document.paths.paths.values_mut().flat_map(operations) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(Parameter { schema: Some(RefOr::T(schema)), .. }) = parameter {
                    never_null(schema);
                }
            }
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    complete(status, response);
                }
            }
        }
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "A token as `gateway token` makes it: HS256, with the claim of the deployment",
            ));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    }
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.post].into_iter().flatten()
}

/// A parameter may be absent, but never null.
fn never_null(schema: &mut Schema) {
    if let Schema::Object(object) = schema
        && let SchemaType::Array(types) = &object.schema_type
        && let [of, Type::Null] = types.as_slice()
    {
        object.schema_type = of.clone().into();
    }
}

/// Adds the body and the headers of an error, the link from an update's answer to its receipt, and the meaning
/// of every header.
fn complete(status: &str, response: &mut Response) {
    if status.starts_with(['4', '5']) && response.content.is_empty() {
        let body = Content::new(Some(Ref::from_schema_name(error::Body::name())));
        response.content.insert("application/json".to_owned(), body.into());
        let implied = match status {
            "401" => Some(("WWW-Authenticate", Header::default())),
            "429" | "503" => Some(("Retry-After", Header::new(Object::with_type(Type::Integer)))),
            _ => None,
        };
        let implied = implied.map(|(name, header)| (name.to_owned(), header.into()));
        response.headers.extend(implied);
    }
    if status.starts_with('2') && response.headers.contains_key("Update-Id") {
        let receipt = Link::builder()
            .operation_id("receipt")
            .parameter("id", "$response.header.Update-Id")
            .build();
        response.links.insert("receipt".to_owned(), receipt.into());
    }
    for (name, header) in &mut response.headers {
        if let RefOr::T(header) = header {
            let meaning = HEADERS.iter().find(|(known, _)| known == name);
            header.description = meaning.map(|(_, meaning)| (*meaning).to_owned());
        }
    }
}
