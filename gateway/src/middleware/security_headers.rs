//! What browsers and caches must not do with an answer.

use axum::http::{HeaderMap, HeaderValue, header};

/// Says it on every answer. An endpoint that allows more has said so before.
pub(crate) fn protect(headers: &mut HeaderMap) {
    let value = HeaderValue::from_static;
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, value("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, value("DENY"));
    headers.insert(header::REFERRER_POLICY, value("no-referrer"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(value("default-src 'none'; frame-ancestors 'none'"));
    // Answers to updates, receipts and errors are for who asked, at that moment.
    headers.entry(header::CACHE_CONTROL).or_insert(value("no-store"));
}
