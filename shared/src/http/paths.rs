//! Canonical paths of requests, in the form of the routes.
//!
//! A client that joins a base address with a trailing slash and a path requests `//api/v1/incidents`, and
//! some encode `_` as `%5F`. The Python dashboard accepts both. So several slashes count as one, and
//! unreserved characters are decoded (RFC 3986, 6.2.2.2). An encoded slash remains encoded: it is a part
//! of a segment.

use axum::http::uri::{PathAndQuery, Uri};

/// Replaces the path of a request by its canonical form, and changes nothing else.
pub fn canonicalize(uri: &mut Uri) {
    let Some(path) = canonical(uri.path()) else { return };
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    // The result is a valid path; otherwise the address remains unchanged, and matches no route.
    parts.path_and_query = PathAndQuery::try_from(path_and_query).ok();
    if let (Some(_), Ok(canonical)) = (parts.path_and_query.clone(), Uri::from_parts(parts)) {
        *uri = canonical;
    }
}

/// The canonical form of a path; none when it has that already.
fn canonical(path: &str) -> Option<String> {
    if !path.contains('%') && !path.contains("//") {
        return None;
    }
    let mut canonical = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        let (next, length) = match unreserved(rest) {
            Some(decoded) => (decoded, "%xx".len()),
            None => (next, next.len_utf8()),
        };
        if !(next == '/' && canonical.ends_with('/')) {
            canonical.push(next);
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Some(canonical)
}

/// The encoded character at the beginning, if it is one that need not be encoded (RFC 3986, 2.3).
fn unreserved(text: &str) -> Option<char> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let decoded = char::from(u8::from_str_radix(digits, 16).ok()?);
    (decoded.is_ascii_alphanumeric() || "-._~".contains(decoded)).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(address: &str) -> String {
        let mut uri: Uri = address.parse().unwrap();
        canonicalize(&mut uri);
        uri.to_string()
    }

    #[test]
    fn paths_have_one_form() {
        for (address, expected) in [
            ("/api/v1/incidents", "/api/v1/incidents"),
            ("/", "/"),
            ("//", "/"),
            ("///api//v1///incidents", "/api/v1/incidents"),
            ("/api/v1/component%5Fstatus", "/api/v1/component_status"),
            ("/api/v1/component%5fstatus?a=%5F//b", "/api/v1/component_status?a=%5F//b"),
            ("/%61%50%49%2d%2E%7e", "/aPI-.~"),
            ("http://host//api/v1//incidents?x", "http://host/api/v1/incidents?x"),
            // A slash at the end is another path.
            ("/api/v1/incidents//", "/api/v1/incidents/"),
        ] {
            assert_eq!(path(address), expected, "{address}");
        }
    }

    #[test]
    fn what_must_be_encoded_stays_so() {
        for address in [
            "/api/v1/updates%2F1",
            "/api%2fv1/incidents",
            "/a%25%35F",
            "/a%3Fb%23c",
            "/a%00%20%7f%ff",
            "/a%C3%BC",
            "/a%",
            "/a%5",
            "/a%zz",
            "/a%+5",
            "/a%5\u{fc}",
        ] {
            let expected = address.replace("%35", "5");
            assert_eq!(canonical(address).unwrap_or_default(), expected, "{address}");
        }
        assert_eq!(path("*"), "*");
    }
}
