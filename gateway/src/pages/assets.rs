//! The style, the script and the icon of the pages, which are the same for all.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use crate::{gateway::App, http::if_none_match::IfNoneMatch};

const ASSETS: [(&str, &str, &str); 3] = [
    ("/assets/page.css", "text/css; charset=utf-8", include_str!("assets/page.css")),
    ("/assets/page.js", "text/javascript; charset=utf-8", include_str!("assets/page.js")),
    ("/assets/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// Their paths.
pub(super) fn router() -> Router<Arc<App>> {
    ASSETS.into_iter().fold(Router::new(), |router, (path, content_type, text)| {
        let digest = Sha256::digest(text).into_iter().take(8);
        let tag = format!("\"{}\"", digest.map(|byte| format!("{byte:02x}")).collect::<String>());
        let answer = move |headers: HeaderMap| async move {
            asset(&tag, content_type, text, &IfNoneMatch::read(&headers))
        };
        router.route(path, get(answer))
    })
}

fn asset(
    tag: &str,
    content_type: &'static str,
    text: &'static str,
    known: &IfNoneMatch,
) -> Response {
    let mut response = if *known == IfNoneMatch::Any || known.has(tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type)], text).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
