//! What a request's headers say of its body: `Content-Type` and `Content-Encoding`.

use axum::http::{HeaderMap, header};

/// Whether the headers declare the body as JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

/// Whether a body has no content coding (RFC 9110, 8.4).
pub(crate) fn is_uncoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).into_iter();
    codings.all(|value| {
        let codings = value.to_str().unwrap_or("?").split(',').map(str::trim);
        codings.filter(|coding| !coding.is_empty()).all(|c| c.eq_ignore_ascii_case("identity"))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn coded_bodies_are_told_apart() {
        for (values, expected) in [
            (&[][..], true),
            (&["identity"], true),
            (&["Identity, identity", ""], true),
            (&["gzip"], false),
            (&["identity, gzip"], false),
            (&["identity", "br"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(is_uncoded(&headers), expected, "{values:?}");
        }
    }
}
