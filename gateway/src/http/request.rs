//! Request headers: `Prefer`, `Idempotency-Key`, `Content-Type`.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};

use shared::message::MAX_REPORT_NAME;

use super::{error::ApiError, prefer};

/// Time from a request's arrival to its answer, unless the client says otherwise: the reporter
/// that posts to the Python dashboard gives up after 2 s.
const DEFAULT_WAIT: Duration = Duration::from_millis(1_500);
const LONGEST_WAIT: u64 = 30;
/// Maximum length of an idempotency key.
pub(crate) const LONGEST_KEY: usize = 255;

/// How long a client waits for the outcome (RFC 7240).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Preference {
    /// Time from arrival to answer.
    pub(crate) wait: Duration,
    /// Whether the outcome is not waited for at all, only RabbitMQ's confirmation.
    pub(crate) respond_async: bool,
    /// Whether the client said how long it waits for the outcome.
    pub(crate) wait_asked: bool,
    /// The value for `Preference-Applied`.
    pub(crate) applied: Option<HeaderValue>,
}

impl Preference {
    /// From the `Prefer` headers. Unknown and invalid preferences are ignored.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let mut respond_async = false;
        let mut wait: Option<Option<u64>> = None;
        for value in headers.get_all("prefer") {
            for (name, value) in prefer::preferences(value.as_bytes()) {
                match name.as_str() {
                    "respond-async" => respond_async = true,
                    // The first of a repeated preference counts, even if it is invalid.
                    "wait" => drop(wait.get_or_insert_with(|| seconds(&value))),
                    _ => {}
                }
            }
        }
        let seconds = wait.flatten();
        match seconds {
            // With both, the client waits that long for the outcome and accepts 202 after that.
            Some(seconds) if seconds > 0 => {
                let seconds = seconds.min(LONGEST_WAIT);
                let applied = HeaderValue::from_str(&format!("wait={seconds}")).ok();
                Self {
                    wait: Duration::from_secs(seconds),
                    respond_async: false,
                    wait_asked: true,
                    applied,
                }
            }
            Some(_) => Self {
                wait: DEFAULT_WAIT,
                respond_async: true,
                wait_asked: false,
                applied: Some(HeaderValue::from_static("wait=0")),
            },
            None => Self {
                wait: DEFAULT_WAIT,
                respond_async,
                wait_asked: false,
                applied: respond_async.then(|| HeaderValue::from_static("respond-async")),
            },
        }
    }

    /// The answer, with what of it was applied.
    pub(crate) fn mark(self, mut answer: Response) -> Response {
        if let Some(applied) = self.applied {
            answer.headers_mut().insert("preference-applied", applied);
        }
        answer
    }
}

/// A number of seconds of any size; none if it is not a number.
fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Whether a body has no content coding (RFC 9110, 8.4).
pub(crate) fn is_uncoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).into_iter();
    codings.all(|value| {
        let codings = value.to_str().unwrap_or("?").split(',').map(str::trim);
        codings.filter(|coding| !coding.is_empty()).all(|c| c.eq_ignore_ascii_case("identity"))
    })
}

/// The idempotency key, if the client sent one.
///
/// # Errors
/// 400 when it is empty, too long or not printable.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all("idempotency-key").into_iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let text = key.to_str().ok().map(str::trim).filter(|key| is_idempotency_key(key));
    match (text, keys.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::bad_request(
            "Idempotency-Key must be one value of 1 to 255 printable ASCII characters",
        )),
    }
}

/// Whether a text is a valid idempotency key: 1 to 255 printable ASCII characters.
pub(crate) fn is_idempotency_key(text: &str) -> bool {
    let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(is_printable)
}

/// Whether a text can be the source of a report: 1 to 255 characters, none a control character.
pub(crate) fn is_source(text: &str) -> bool {
    (1..=MAX_REPORT_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// Whether the headers declare the body as JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preference(values: &[&'static str]) -> (u64, bool, String) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", HeaderValue::from_static(value));
        }
        let Preference { wait, respond_async, wait_asked, applied } = Preference::read(&headers);
        let applied = applied.map(|v| v.to_str().expect("ASCII").to_owned()).unwrap_or_default();
        assert_eq!(wait_asked, !respond_async && applied.starts_with("wait="));
        (wait.as_millis() as u64, respond_async, applied)
    }

    #[test]
    fn preferences_are_read() {
        for (values, expected) in [
            (&[][..], (1_500, false, "")),
            (&["respond-async"], (1_500, true, "respond-async")),
            (&["Respond-Async, wait=5"], (5_000, false, "wait=5")),
            (&["wait=5", "respond-async"], (5_000, false, "wait=5")),
            (&["wait=\"7\"; x=y"], (7_000, false, "wait=7")),
            (&["wait=400"], (30_000, false, "wait=30")),
            (&["wait=0"], (1_500, true, "wait=0")),
            (&["wait=soon, handling=strict"], (1_500, false, "")),
            (&["wait=99999999999999999999999"], (30_000, false, "wait=30")),
            (&["wait=+5"], (1_500, false, "")),
            (&["wait"], (1_500, false, "")),
            // The first of each counts.
            (&["wait=5, wait=7", "wait=9"], (5_000, false, "wait=5")),
            (&["wait=soon", "wait=7"], (1_500, false, "")),
            // Quoted text and parameters of another preference are not preferences.
            (&["foo=\"a, wait=7\", wait=5"], (5_000, false, "wait=5")),
            (&["foo=\"respond-async, \\\", respond-async\""], (1_500, false, "")),
            (&["foo; bar=\"; respond-async, wait=3\"; respond-async"], (1_500, false, "")),
            (&["foo; wait=3, RESPOND-ASYNC ; a"], (1_500, true, "respond-async")),
            (&["foo=\"never ends, wait=3", "wait=\t\"4\" "], (4_000, false, "wait=4")),
        ] {
            let (wait, respond_async, applied) = expected;
            assert_eq!(preference(values), (wait, respond_async, applied.to_owned()), "{values:?}");
        }
    }

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

    #[test]
    fn idempotency_keys_are_printable() {
        let key = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.append("idempotency-key", HeaderValue::from_bytes(value).expect("a header"));
            idempotency_key(&headers).map_err(|_| ())
        };
        assert_eq!(key(b" a-b "), Ok(Some("a-b".to_owned())));
        assert_eq!(key(&[b'x'; 255]), Ok(Some("x".repeat(255))));
        for refused in [&b""[..], b"  ", &[b'x'; 256], b"a\tb", "schlüssel".as_bytes()] {
            assert_eq!(key(refused), Err(()), "{refused:?}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).map_err(|_| ()), Ok(None));
    }
}
