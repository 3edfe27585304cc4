//! Reads a variable as the Python dashboard does: decoded if it is JSON, unchanged otherwise, and never
//! trimmed.

use serde::de::IgnoredAny;

/// The value that the Python dashboard reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// A text.
    Text(String),
    /// Another type, with its name.
    NotText(&'static str),
}

/// The white space that JSON permits around a value.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Reads a variable as Python's `json.loads` does; if that fails, it is unchanged.
pub(super) fn as_python(raw: &str) -> Reading {
    let value = raw.trim_matches(WHITE_SPACE);
    // Python's JSON also has these numbers.
    if ["NaN", "Infinity", "-Infinity"].contains(&value) {
        return Reading::NotText("a number");
    }
    // Is it JSON at all? Numbers of any size and strings with any escapes are.
    if serde_json::from_str::<IgnoredAny>(value).is_err() {
        return Reading::Text(raw.to_owned());
    }
    match value.as_bytes().first() {
        Some(b'"') => serde_json::from_str(value)
            .map_or(Reading::NotText("a text that is not Unicode"), Reading::Text),
        Some(b'{') => Reading::NotText("an object"),
        Some(b'[') => Reading::NotText("a list"),
        Some(b't' | b'f') => Reading::NotText("a boolean"),
        Some(b'n') => Reading::NotText("null"),
        Some(_) | None => Reading::NotText("a number"),
    }
}

/// The content of a JSON string; anything else is unchanged.
pub(super) fn unquoted(raw: &str) -> String {
    match as_python(raw) {
        Reading::Text(text) => text,
        Reading::NotText(_) => raw.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each as Python's `json.loads` (3.11) reads it, or unchanged if that fails.
    #[test]
    fn values_are_read_as_python_reads_them() {
        let text = |text: &str| Reading::Text(text.to_owned());
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (raw, expected) in [
            ("K", text("K")),
            ("\"K\"", text("K")),
            (" \"K\" \n", text("K")),
            ("\" K \"", text(" K ")),
            ("\"K\\n\"", text("K\n")),
            ("\"\\u00fc\\/\"", text("ü/")),
            ("\"\\ud83d\\ude00\"", text("😀")),
            ("\"\"", text("")),
            ("", text("")),
            ("K\n", text("K\n")),
            (" K", text(" K")),
            ("'K'", text("'K'")),
            ("\"K", text("\"K")),
            ("\"K\"x", text("\"K\"x")),
            ("\"a\"b\"", text("\"a\"b\"")),
            ("\"a\nb\"", text("\"a\nb\"")),
            ("\"\\x\"", text("\"\\x\"")),
            ("\u{a0}\"K\"", text("\u{a0}\"K\"")),
            ("\u{feff}\"K\"", text("\u{feff}\"K\"")),
            ("007", text("007")),
            ("+1", text("+1")),
            ("1_000", text("1_000")),
            ("True", text("True")),
            ("nan", text("nan")),
            ("{'a': 1}", text("{'a': 1}")),
            ("0", Reading::NotText("a number")),
            ("-1.5e3", Reading::NotText("a number")),
            ("1e999", Reading::NotText("a number")),
            ("123456789012345678901234567890", Reading::NotText("a number")),
            ("NaN", Reading::NotText("a number")),
            (" -Infinity\n", Reading::NotText("a number")),
            ("true", Reading::NotText("a boolean")),
            ("false\n", Reading::NotText("a boolean")),
            ("null", Reading::NotText("null")),
            ("{\"a\": \"K\"}", Reading::NotText("an object")),
            ("[\"K\"]", Reading::NotText("a list")),
            (&deep, Reading::NotText("a list")),
            ("\"\\ud800\"", Reading::NotText("a text that is not Unicode")),
        ] {
            assert_eq!(as_python(raw), expected, "{raw:?}");
        }
    }
}
