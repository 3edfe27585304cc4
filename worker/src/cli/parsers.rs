//! Parses values of the command line.

use shared::domain::{impact::Impact, incident::MAX_TITLE_CHARS};

/// The impact of an incident, as a number or a word.
pub(super) fn impact(text: &str) -> Result<Impact, &'static str> {
    let by_word = Impact::REPORTABLE.into_iter().find(|impact| impact.word() == text);
    let by_number = || Impact::try_from(text.parse::<i16>().ok()?).ok();
    match by_word.or_else(by_number) {
        Some(impact @ (Impact::Minor | Impact::Major | Impact::Outage)) => Ok(impact),
        Some(Impact::Maintenance) => Err("0 is a maintenance: see `worker maintenance`"),
        None => Err("write 1 (minor), 2 (major) or 3 (outage)"),
    }
}

/// A title.
pub(super) fn title(text: &str) -> Result<String, &'static str> {
    if text.chars().count() > MAX_TITLE_CHARS {
        return Err("it has more than 255 characters");
    }
    if text.chars().any(char::is_control) {
        return Err("it has a control character");
    }
    words(text)
}

/// A text that says something.
pub(super) fn words(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("it is empty") } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impacts_are_read_as_numbers_and_words() {
        for (text, means) in [
            ("1", Impact::Minor),
            ("2", Impact::Major),
            ("3", Impact::Outage),
            ("minor", Impact::Minor),
            ("outage", Impact::Outage),
        ] {
            assert_eq!(impact(text), Ok(means), "{text}");
        }
        for (text, says) in [("0", "maintenance"), ("4", "write 1"), ("bad", "write 1")] {
            assert!(impact(text).is_err_and(|error| error.contains(says)), "{text}");
        }
    }

    #[test]
    fn titles_are_what_an_update_may_bring() {
        let (fits, long) = ("ü".repeat(255), "ü".repeat(256));
        assert_eq!(title(&fits), Ok(fits.clone()));
        for (text, says) in [(long.as_str(), "255"), ("a\nb", "control"), (" ", "empty")] {
            assert!(title(text).is_err_and(|error| error.contains(says)), "{text}");
        }
        assert_eq!(words("two\nlines"), Ok("two\nlines".to_owned()));
    }
}
