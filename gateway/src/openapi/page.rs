//! `GET /api-spec.json`, the OpenAPI document, and `GET /api-docs`, a page that shows it.
//!
//! The page loads nothing from other hosts.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use utoipa::OpenApi;

use super::OpenApiDocument;
use crate::gateway::App;

/// What the page may load: its own script and style, and the document.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document, made for the first request for it.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "every request for it shows, and a test asks")]
    let json = serde_json::to_vec(&OpenApiDocument::openapi()).expect("the document is JSON");
    json.into()
});

/// The paths. The script and the style are separate files, so that the page's policy can forbid inline ones.
pub(crate) fn router() -> Router<Arc<App>> {
    let html = include_str!("page/page.html");
    let script = include_str!("page/page.js");
    let style = include_str!("page/page.css");
    Router::new()
        .route("/api-spec.json", get(async || file("application/json", DOCUMENT.clone())))
        .route(
            "/api-docs",
            get(async move || {
                let policy = [(header::CONTENT_SECURITY_POLICY, POLICY)];
                (policy, file("text/html; charset=utf-8", html))
            }),
        )
        .route(
            "/api-docs/page.js",
            get(async move || file("text/javascript; charset=utf-8", script)),
        )
        .route("/api-docs/page.css", get(async move || file("text/css; charset=utf-8", style)))
}

fn file(content_type: &'static str, body: impl IntoResponse) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")];
    (headers, body)
}
