//! Interprets a scalar like PyYAML (YAML 1.1): a text, or a value that the Python dashboard stores as
//! text in another form.

use std::sync::LazyLock;

use regex::RegexSet;

/// A scalar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    /// A text, or what is stored as it is written: `12`, `1.5`, `true`, `2026-05-01`.
    Text(String),
    /// Nothing.
    Null,
    /// `<<`, where it is a key.
    Merge,
    /// A value whose stored form differs from its written form.
    Other {
        /// As it is written.
        written: String,
        /// Its type in YAML.
        kind: &'static str,
        /// As the Python dashboard stores it, where that is known.
        stored: Option<String>,
    },
}

impl Scalar {
    /// The text, if it is one; or what it is instead.
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Merge => Ok("<<"),
            Self::Null => Err("is empty".to_owned()),
            Self::Other { written, kind, stored } => {
                let as_stored = match stored {
                    Some(stored) => format!(
                        ", or \"{stored}\" in quotes, as which the Python dashboard stores it"
                    ),
                    None => String::new(),
                };
                Err(format!(
                    "is `{written}`, which YAML reads as {kind}: write \"{written}\" in quotes to keep \
                    it as it is{as_stored}"
                ))
            }
        }
    }
}

const NULL: [&str; 5] = ["", "~", "null", "Null", "NULL"];
const TRUE: [&str; 9] = ["yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"];
const FALSE: [&str; 9] = ["no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"];

/// The forms of YAML 1.1 that are neither words nor texts. The index of the one that matches says what a scalar
/// is.
static FORMS: LazyLock<RegexSet> = LazyLock::new(|| {
    let forms = [
        "0b[01_]+",
        "0x[0-9a-fA-F_]+",
        "0[0-7_]+",
        "(?:0|[1-9][0-9_]*)",
        "[1-9][0-9_]*(?::[0-5]?[0-9])+",
        r"[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?",
        r"[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*",
        r"\.(?:inf|Inf|INF)",
    ];
    let unsigned = [r"\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|\.(?:nan|NaN|NAN)"];
    let times = [
        "[0-9]{4}-[0-9]{2}-[0-9]{2}",
        r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?",
    ];
    let signed = forms.map(|form| format!("^[-+]?(?:{form})$"));
    let others = unsigned.iter().chain(&times).map(|form| format!("^(?:{form})$"));
    #[expect(clippy::expect_used, reason = "these are literals, and a test uses each")]
    RegexSet::new(signed.into_iter().chain(others)).expect("these are expressions")
});
const BINARY: usize = 0;
const HEXADECIMAL: usize = 1;
const OCTAL: usize = 2;
const DECIMAL: usize = 3;
const TO_BASE_60: usize = 4;
const FLOAT: usize = 5;
const SHORT_FLOAT: usize = 8;
const DATE: usize = 9;
const TIME: usize = 10;

/// Reads a scalar. It is always a text unless it is plain (not quoted, and not a block).
pub(super) fn resolve(written: &str, is_plain: bool) -> Scalar {
    let other = |kind, stored: Option<String>| {
        if stored.as_deref() == Some(written) {
            Scalar::Text(written.to_owned())
        } else {
            Scalar::Other { written: written.to_owned(), kind, stored }
        }
    };
    match written {
        _ if !is_plain => Scalar::Text(written.to_owned()),
        "<<" => Scalar::Merge,
        _ if NULL.contains(&written) => Scalar::Null,
        _ if TRUE.contains(&written) => other("a boolean", Some("true".to_owned())),
        _ if FALSE.contains(&written) => other("a boolean", Some("false".to_owned())),
        _ => match FORMS.matches(written).into_iter().next() {
            None => Scalar::Text(written.to_owned()),
            Some(DATE) => other("a date", date(written)),
            Some(TIME) => other("a time", None),
            Some(FLOAT | SHORT_FLOAT) => other("a number", float(written)),
            Some(form) => other("a number", integer(written, form)),
        },
    }
}

/// The stored form of an integer; none if it is not an integer, or is too large.
fn integer(written: &str, form: usize) -> Option<String> {
    let unsigned = written.trim_start_matches(['+', '-']).replace('_', "");
    let value = match form {
        BINARY => i128::from_str_radix(unsigned.strip_prefix("0b")?, 2).ok()?,
        HEXADECIMAL => i128::from_str_radix(unsigned.strip_prefix("0x")?, 16).ok()?,
        OCTAL => i128::from_str_radix(&unsigned, 8).ok()?,
        // Of any length, because Python's integers are unlimited.
        DECIMAL if unsigned.len() > 30 && !written.contains(['+', '_']) => {
            return Some(written.to_owned());
        }
        DECIMAL => unsigned.parse().ok()?,
        TO_BASE_60 => unsigned.split(':').try_fold(0_i128, |value, digits| {
            value.checked_mul(60)?.checked_add(digits.parse().ok()?)
        })?,
        _ => return None,
    };
    Some((if written.starts_with('-') { -value } else { value }).to_string())
}

/// How a number is stored, where Python and Rust write it alike.
fn float(written: &str) -> Option<String> {
    let value: f64 = written.replace('_', "").parse().ok()?;
    let is_alike = value == 0.0 && value.is_sign_positive() || (1e-4..1e16).contains(&value.abs());
    is_alike.then(|| format!("{value:?}"))
}

/// A date of the calendar is stored as it is written.
fn date(written: &str) -> Option<String> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    let date = time::Date::parse(written, format).ok().filter(|date| date.year() > 0);
    date.map(|_| written.to_owned())
}

#[cfg(test)]
mod tests;
