//! The header `Prefer` (RFC 7240): how long a client waits for the outcome.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderValue},
    response::Response,
};

/// Time from a request's arrival to its answer, unless the client says otherwise.
const DEFAULT_WAIT: Duration = Duration::from_millis(1_500);
// The reporter that posts to the Python dashboard gives up after 2 s.
const _: () = assert!(DEFAULT_WAIT.as_millis() < 2_000);
/// Longer waits that a client asks for are shortened to this.
const MAX_WAIT_SECONDS: u64 = 30;

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
            for (name, value) in preferences(value.as_bytes()) {
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
                let seconds = seconds.min(MAX_WAIT_SECONDS);
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

    /// Waits this long for RabbitMQ's confirmation, and not for the outcome.
    pub(crate) const fn confirmation(wait: Duration) -> Self {
        Self { wait, respond_async: true, wait_asked: false, applied: None }
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

/// The preferences of one header, each a name in lower case with its value, empty without one. Their
/// parameters are left out. A malformed part ends the list.
fn preferences(header: &[u8]) -> Vec<(String, String)> {
    let mut parser = Parser { rest: header };
    let mut preferences = Vec::new();
    loop {
        while parser.skips(b',') {}
        let Some(preference) = parser.pair() else { return preferences };
        while parser.skips(b';') {
            // There may be none after it.
            let is_none = matches!(parser.rest, [] | [b';' | b',', ..]);
            if !is_none && parser.pair().is_none() {
                return preferences;
            }
        }
        preferences.push(preference);
        if !parser.skips(b',') {
            return preferences;
        }
    }
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    /// Skips white space, and this byte if it is next, with the white space after it.
    fn skips(&mut self, byte: u8) -> bool {
        self.rest = self.rest.trim_ascii_start();
        match self.rest.strip_prefix(&[byte]) {
            Some(rest) => {
                self.rest = rest.trim_ascii_start();
                true
            }
            None => false,
        }
    }

    /// A name with or without a value.
    fn pair(&mut self) -> Option<(String, String)> {
        let name = self.token()?.to_ascii_lowercase();
        let value = if self.skips(b'=') { self.word()? } else { String::new() };
        Some((name, value))
    }

    fn word(&mut self) -> Option<String> {
        if let Some(rest) = self.rest.strip_prefix(b"\"") {
            self.rest = rest;
            return self.quoted();
        }
        self.token()
    }

    fn token(&mut self) -> Option<String> {
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let length = self.rest.iter().take_while(|byte| is_token(byte)).count();
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        (length > 0).then(|| String::from_utf8_lossy(token).into_owned())
    }

    /// The rest of a quoted string.
    fn quoted(&mut self) -> Option<String> {
        let mut text = Vec::new();
        loop {
            match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Some(String::from_utf8_lossy(&text).into_owned());
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    text.push(*byte);
                    self.rest = rest;
                }
                [] => return None,
            }
        }
    }
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
    fn preferences_have_names_and_values() {
        for (header, expected) in [
            (&b""[..], &[][..]),
            (b",, ,", &[]),
            (b"a", &[("a", "")]),
            (b"A=b , c = \"d, e\";f;g=h;;i = \"j;k\",L", &[("a", "b"), ("c", "d, e"), ("l", "")]),
            (b"a=\"\\\"b\\\\\", c", &[("a", "\"b\\"), ("c", "")]),
            (b"a=\"\", b", &[("a", ""), ("b", "")]),
            (b"a;, b; ;c=d;", &[("a", ""), ("b", "")]),
            (b"a, b=\"c", &[("a", "")]),
            (b"a, b;c=\"d", &[("a", "")]),
            (b"a, b=\"c\\", &[("a", "")]),
            (b"a, (b), c", &[("a", "")]),
            (b"a b, c", &[("a", "")]),
            (b"a=, b", &[]),
            (b"a=\"\xff\"", &[("a", "\u{fffd}")]),
        ] {
            let found = preferences(header);
            let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(header));
        }
    }
}
