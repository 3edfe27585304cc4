//! The document of the API, OpenAPI 3.1, made from the handlers and the types that they answer with.
//!
//! What is particular to an endpoint is documented at its handler. What many have in common is filled in here:
//! the error body, the meaning of each header, and the scheme of the tokens.

pub(crate) mod page;

use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::{
        Content, Header, Object, Ref, RefOr, Required, Schema, Type,
        link::Link,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        response::Response,
        schema::SchemaType,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{
    api::{
        alertmanager::{post_alerts, post_webhook},
        feeds::{get_atom, get_badge, get_calendar, get_rss},
        health, metrics,
        statuspage::get_document,
        v1::{
            get_component_status, get_incidents, get_live, get_update, post_component_status,
            post_updates,
        },
        v2::{get_availability, get_components, get_event, get_events, post_events},
    },
    http::error,
    middleware::api_v2,
};

/// What applies to every endpoint.
const DESCRIPTION: &str = "\
Monitors post the statuses of components; the service decides which incident each belongs to. Lists \
are public; updates and receipts need a token.\n\n\
HEAD is answered like GET, without the body. Any other method is answered 405, an unknown path 404, \
both with the error body. In a path, several slashes count as one, and `%5F` as `_`; a slash at the \
end makes it another path. `/`, `/incidents/{id}`, `/components/{id}` and `/history` are pages for people; with \
`SDB_PAGE=off`, `/` redirects to `/api-docs`. A request whose head exceeds 32 KiB or is malformed \
is answered 400, 414 or 431 without a body, and its connection is closed.\n\n\
An answer that leaves the request's body unread has `Connection: close`.";

/// The meaning of each header of an answer.
const HEADERS: [(&str, &str); 11] = [
    ("Update-Id", "The id of the update, a UUIDv7"),
    ("Link", "`rel=\"monitor\"` is the receipt of the update, `rel=\"next\"` the next page"),
    ("Location", "The path of the receipt"),
    ("Retry-After", "Seconds after which to send the request again"),
    ("Preference-Applied", "The preference of `Prefer` that was honoured"),
    ("ETag", "The version of the list in this coding, for `If-None-Match`; always weak"),
    ("Vary", "What the answer depends on, always with `Accept-Encoding`"),
    ("Content-Encoding", "`gzip` where the client accepts it"),
    ("Accept-Encoding", "Always `identity`: the body must not be compressed"),
    ("WWW-Authenticate", "Always `Bearer`"),
    ("X-Accel-Buffering", "Always `no`: proxies are to pass events on at once"),
];

/// GETs that scripts of other sites may not read.
const CLOSED: [&str; 4] = ["/api/v1/updates", "/healthz", "/readyz", "/metrics"];

/// The headers that every answer below `/v2` has, also that to OPTIONS, which is 204 without a token.
const CROSS_ORIGIN: [(&str, &str); 4] = [
    ("Access-Control-Allow-Origin", "Always `*`"),
    ("Access-Control-Allow-Headers", "The headers that scripts of other sites may send"),
    ("Access-Control-Allow-Methods", "The methods that scripts of other sites may use"),
    ("Access-Control-Max-Age", "Seconds for which a browser may keep the answer to OPTIONS"),
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
        get_components::get,
        get_events::get,
        get_event::get,
        post_events::post,
        get_availability::get,
        get_rss::get,
        get_atom::get,
        get_calendar::get,
        get_badge::get,
        get_badge::get_of_component,
        get_document::get,
        get_document::get_part,
        get_live::get,
        health::healthz,
        health::readyz,
        metrics::get,
    ),
    components(schemas(error::ErrorJson, api_v2::ErrorV2Json)),
    modifiers(&Common),
)]
pub(crate) struct OpenApiDocument;

/// Fills in what many answers have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let is_v2 = path.starts_with(api_v2::BELOW);
            for operation in operations(item) {
                complete_operation(operation, is_v2);
            }
            let is_readable = !is_v2 && !CLOSED.iter().any(|closed| path.starts_with(closed));
            if let Some(get) = item.get.as_mut().filter(|_| is_readable) {
                allow_reading(get);
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

/// Adds the header that lets scripts of other sites read the answer.
fn allow_reading(operation: &mut Operation) {
    let [(name, meaning), ..] = CROSS_ORIGIN;
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let mut header = Header::default();
            header.description = Some(meaning.to_owned());
            response.headers.insert(name.to_owned(), header.into());
        }
    }
}

fn complete_operation(operation: &mut Operation, is_v2: bool) {
    complete_list(operation);
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(Parameter { schema: Some(RefOr::T(schema)), .. }) = parameter {
            never_null(schema);
        }
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            complete(status, response, is_v2);
        }
    }
}

/// An answer with an `ETag` may be asked for conditionally, and compressed.
fn complete_list(operation: &mut Operation) {
    let Some(RefOr::T(list)) = operation.responses.responses.get_mut("200") else { return };
    if !list.headers.contains_key("ETag") {
        return;
    }
    let headers = |names: [&str; 2]| names.map(|name| (name.to_owned(), Header::default().into()));
    list.headers.extend(headers(["Vary", "Content-Encoding"]));
    let mut unchanged = Response::new("Nothing has changed since that answer");
    unchanged.headers.extend(headers(["ETag", "Vary"]));
    operation.responses.responses.insert("304".to_owned(), unchanged.into());
    let tag = ParameterBuilder::new()
        .name("If-None-Match")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("The `ETag` of an earlier answer"))
        .schema(Some(Object::with_type(Type::String)));
    operation.parameters.get_or_insert_default().push(tag.build().into());
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
fn complete(status: &str, response: &mut Response, is_v2: bool) {
    if status.starts_with(['4', '5']) && response.content.is_empty() {
        let name = if is_v2 { api_v2::ErrorV2Json::name() } else { error::ErrorJson::name() };
        let body = Content::new(Some(Ref::from_schema_name(name)));
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
    if is_v2 {
        let all = CROSS_ORIGIN.map(|(name, _)| (name.to_owned(), Header::default().into()));
        response.headers.extend(all);
    }
    for (name, header) in &mut response.headers {
        if let RefOr::T(header) = header {
            let meaning = HEADERS.iter().chain(&CROSS_ORIGIN).find(|(known, _)| known == name);
            header.description = meaning.map(|(_, meaning)| (*meaning).to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api_path::is_of_api;

    #[test]
    fn a_path_is_of_an_api_or_polled() {
        let paths = OpenApiDocument::openapi().paths.paths;
        let (of_api, polled): (Vec<_>, Vec<_>) = paths.keys().partition(|path| is_of_api(path));
        assert!(of_api.len() > 10, "{of_api:?}");
        let known = [
            "/badge.svg",
            "/badge/components/{file}",
            "/feed.atom",
            "/healthz",
            "/maintenance.ics",
            "/metrics",
            "/readyz",
            "/rss/",
        ];
        assert_eq!(polled, known);
        assert!(is_of_api("/api") && is_of_api("/v2/nothing") && !is_of_api("/api-docs"));
    }
}
