//! Metrics of requests.

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::Response,
};
use shared::telemetry::metrics::GATEWAY;
use tokio::time::Instant;

/// Counts and measures answered requests.
pub(crate) async fn measure_request(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let (route, method) = (route.to_owned(), word(request.method()));
    let response = next.run(request).await;
    GATEWAY.request(route, method, response.status().as_u16(), began.elapsed());
    response
}

/// The method's name; clients may make up others.
fn word(method: &Method) -> &'static str {
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    NAMES.into_iter().find(|name| method == *name).unwrap_or("other")
}
