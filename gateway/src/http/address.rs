//! The address of the service as the client knows it.

use axum::http::HeaderMap;

/// The configured address, or else that of the request, with a slash at its end. A proxy says whether that is with
/// TLS.
pub(crate) fn address(configured: Option<&str>, headers: &HeaderMap) -> String {
    if let Some(address) = configured {
        return address.to_owned();
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").filter(|host| host.len() <= 255 && host.chars().all(is_plain));
    let scheme = if text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    format!("{scheme}://{}/", host.unwrap_or("localhost"))
}
