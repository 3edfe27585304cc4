//! How the Python dashboard reads a variable: it is decoded as JSON where it is JSON, taken as it is
//! where it is not, and never trimmed.

use serde::de::IgnoredAny;

/// A variable as the Python dashboard has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// A text.
    Text(String),
    /// Something else, with what it is.
    NotText(&'static str),
}

/// White space that JSON may have around a value.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Reads a variable as Python's `json.loads` does, and as it is when that fails.
pub(super) fn as_python(raw: &str) -> Reading {
    let value = raw.trim_matches(WHITE_SPACE);
    // Python's JSON has these numbers as well.
    if ["NaN", "Infinity", "-Infinity"].contains(&value) {
        return Reading::NotText("a number");
    }
    // Whether it is JSON at all: numbers of any size, texts with any escapes.
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

/// The text that a JSON text has; what is anything else stays as it is.
pub(super) fn unquoted(raw: &str) -> String {
    match as_python(raw) {
        Reading::Text(text) => text,
        Reading::NotText(_) => raw.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each as Python's `json.loads` reads it (3.11), or as it is where that fails.
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
