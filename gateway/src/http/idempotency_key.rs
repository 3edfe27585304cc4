//! The header `Idempotency-Key`.

use axum::http::HeaderMap;

use super::error::ApiError;

/// Maximum length of an idempotency key, in characters.
pub(crate) const MAX_LENGTH: usize = 255;

/// The idempotency key, if the client sent one.
///
/// # Errors
/// 400 when it is empty, too long or not printable.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all("idempotency-key").into_iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let text = key.to_str().ok().map(str::trim).filter(|key| is_valid(key));
    match (text, keys.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::bad_request(
            "Idempotency-Key must be one value of 1 to 255 printable ASCII characters",
        )),
    }
}

/// Whether a text is a valid idempotency key: 1 to 255 printable ASCII characters.
pub(crate) fn is_valid(text: &str) -> bool {
    let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    (1..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_printable)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn idempotency_keys_are_printable() {
        let key = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.append("idempotency-key", HeaderValue::from_bytes(value).expect("a header"));
            read(&headers).map_err(|_| ())
        };
        assert_eq!(key(b" a-b "), Ok(Some("a-b".to_owned())));
        assert_eq!(key(&[b'x'; 255]), Ok(Some("x".repeat(255))));
        for refused in [&b""[..], b"  ", &[b'x'; 256], b"a\tb", "schlüssel".as_bytes()] {
            assert_eq!(key(refused), Err(()), "{refused:?}");
        }
        assert_eq!(read(&HeaderMap::new()).map_err(|_| ()), Ok(None));
    }
}
