//! A span for each request to an API, if traces are enabled. Its names follow the semantic conventions for HTTP;
//! those of other spans are in [`shared::telemetry::traces`].

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, Method, Version, header, uri::Uri},
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    KeyValue,
    trace::{FutureExt, Status, TraceContextExt},
};
use opentelemetry_http::HeaderExtractor;
use shared::telemetry::traces::{Client, Traces};

use crate::{auth::Auth, http::api_path::is_of_api};

/// Serves a request within a span.
pub(crate) async fn trace_request(
    traces: &Traces,
    auth: &Auth,
    request: Request,
    next: Next,
) -> Response {
    // Other paths get no span: they are polled, or are pages and feeds, whose requests belong to no trace.
    if !is_of_api(request.uri().path()) {
        return next.run(request).await;
    }
    let method = request.method().as_str();
    let mut attributes = Vec::new();
    let (mut name, method) = if KNOWN_METHODS.contains(request.method()) {
        (method.to_owned(), method)
    } else {
        attributes.push(KeyValue::new("http.request.method_original", method.to_owned()));
        ("HTTP".to_owned(), "_OTHER")
    };
    attributes.push(KeyValue::new("http.request.method", method.to_owned()));
    if let Some(route) = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) {
        name = format!("{name} {route}");
        attributes.push(KeyValue::new("http.route", route.to_owned()));
    }
    attributes.extend(asked(request.uri(), request.version(), request.headers()));

    let headers = request.headers();
    // Only authenticated clients may determine the trace of a request, and whether it is sampled. The
    // token is checked here, too, because the span begins before the endpoint checks it.
    let is_known = headers.contains_key("traceparent") && auth.verify(headers).is_ok();
    let client = if is_known { Client::Known } else { Client::Stranger };
    let context = traces.serve(name, &HeaderExtractor(headers), client, attributes);
    let response = next.run(request).with_context(context.clone()).await;

    let (span, status) = (context.span(), response.status());
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    if status.is_server_error() {
        span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
        span.set_status(Status::error(""));
    }
    span.end();
    response
}

/// Other methods could be any text.
const KNOWN_METHODS: [Method; 9] = [
    Method::CONNECT,
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::POST,
    Method::PUT,
    Method::TRACE,
];

/// The attributes of a request.
fn asked(uri: &Uri, version: Version, headers: &HeaderMap) -> impl Iterator<Item = KeyValue> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
    let version = if version == Version::HTTP_10 { "1.0" } else { "1.1" };
    let host = text(header::HOST).and_then(|host| host.parse::<Uri>().ok());
    [
        Some(KeyValue::new("url.path", uri.path().to_owned())),
        Some(KeyValue::new("url.scheme", "http")),
        uri.query().map(|query| KeyValue::new("url.query", query.to_owned())),
        Some(KeyValue::new("network.protocol.version", version)),
        text(header::USER_AGENT).map(|agent| KeyValue::new("user_agent.original", agent)),
        host.as_ref()
            .and_then(|host| Some(KeyValue::new("server.address", host.host()?.to_owned()))),
        host.as_ref()
            .and_then(|host| Some(KeyValue::new("server.port", i64::from(host.port_u16()?)))),
    ]
    .into_iter()
    .flatten()
}
