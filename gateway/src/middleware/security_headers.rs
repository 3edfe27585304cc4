//! Security headers: restrictions for browsers and caches.

use axum::http::{HeaderMap, HeaderValue, header};

/// Sets them on every response, unless an endpoint has set its own.
pub(crate) fn protect(headers: &mut HeaderMap) {
    let value = HeaderValue::from_static;
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, value("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, value("DENY"));
    headers.insert(header::REFERRER_POLICY, value("no-referrer"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(value("default-src 'none'; frame-ancestors 'none'"));
    // Answers to updates, receipts and errors must not be cached.
    headers.entry(header::CACHE_CONTROL).or_insert(value("no-store"));
}
