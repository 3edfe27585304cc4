//! Environment variables: the table of all settings ([`SETTINGS`]), and how one of them is parsed
//! ([`Settings`]). Each program's `config.rs` makes its typed configuration of them.

mod reading;
mod secret_file;
mod table;
#[cfg(test)]
mod tests;
mod unused;
pub(crate) mod uri;

use std::{collections::BTreeMap, fmt, str::FromStr};

use self::{reading::Reading, table::described};
pub use self::{
    secret_file::{FileProblem, variable as file_variable},
    table::{SETTINGS, Setting},
    unused::UnusedVariables,
};

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

/// Why a setting can't be used. The message names the expected form.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A required setting is absent.
    #[error("{name} is not set: {meaning}")]
    Missing {
        /// The setting.
        name: &'static str,
        /// Its meaning.
        meaning: &'static str,
    },
    /// An invalid value.
    #[error("{name} is `{value}`, but must be {expected}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The value, unless it may be a secret.
        value: String,
        /// The expected form.
        expected: String,
    },
    /// A secret has a value and a file.
    #[error("{name} and {} are both set: set one of them", file_variable(name))]
    Twice {
        /// The setting.
        name: &'static str,
    },
    /// The file of a secret is not named by a path; what is written may be the secret itself.
    #[error("{} must be the absolute path of a file that has {name}", file_variable(name))]
    NotAPath {
        /// The setting.
        name: &'static str,
    },
    /// The file of a secret does not have one.
    #[error("{}: {path} can't be used", file_variable(name))]
    File {
        /// The setting.
        name: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        problem: FileProblem,
    },
}

/// The `SDB_` variables of an environment.
pub struct Settings {
    variables: BTreeMap<String, String>,
}

impl Settings {
    /// Those of this process.
    #[must_use]
    pub fn from_environment() -> Self {
        // A value that is not UTF-8 gets replacement characters, which its parser refuses.
        Self::new(std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        }))
    }

    /// Those among the given variables.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables =
            variables.into_iter().filter(|(name, _)| name.starts_with("SDB_")).collect();
        Self { variables }
    }

    /// The text of a setting that is no secret, or its default if it is empty or not set. A value in double
    /// quotes is decoded as a JSON string, as the Python dashboard does.
    #[must_use]
    pub fn text(&self, name: &'static str) -> Option<String> {
        let set = self.variables.get(name).and_then(|raw| text_of(raw));
        set.or_else(|| described(name).default.map(str::to_owned))
    }

    /// The text of any setting, also of a secret, which may be in a file.
    ///
    /// # Errors
    /// If a secret has a value and a file, or if its file does not have one.
    pub fn text_or_file(&self, name: &'static str) -> Result<Option<String>, SettingsError> {
        let set = self.raw(name)?.and_then(|raw| text_of(&raw));
        Ok(set.or_else(|| described(name).default.map(str::to_owned)))
    }

    /// All readings of a setting that the Python dashboard compares byte by byte: a key or the name of a
    /// claim. The first is that dashboard's: decoded if it is JSON, and never trimmed. The second, if it
    /// differs, is that of earlier versions of this program: trimmed and not decoded. None if the setting is
    /// not set and has no default.
    ///
    /// # Errors
    /// If the Python dashboard would not read a text, and so would refuse every token; or as for
    /// [`text_or_file`](Self::text_or_file).
    pub fn readings(&self, name: &'static str) -> Result<Vec<String>, SettingsError> {
        let Some(raw) = self.raw(name)? else {
            return Ok(described(name).default.map(str::to_owned).into_iter().collect());
        };
        // It may be a secret, so it is not printed.
        let refused = |expected: &str| Err(invalid(name, "…", expected));
        if raw.contains(char::REPLACEMENT_CHARACTER) {
            return refused("UTF-8");
        }
        let first = match reading::as_python(&raw) {
            Reading::Text(text) if text.trim().is_empty() => return refused("a text"),
            Reading::Text(text) => text,
            Reading::NotText(what) => {
                return refused(&format!(
                    "a text, and as JSON it is {what}: the Python dashboard reads it as such, and \
                    refuses every token. Write it in double quotes, as in `\"123\"`"
                ));
            }
        };
        let trimmed = raw.trim().to_owned();
        Ok(if trimmed == first { vec![first] } else { vec![first, trimmed] })
    }

    /// Whether a setting is set and not empty, or the file of a secret is named.
    #[must_use]
    pub fn is_set(&self, name: &'static str) -> bool {
        let value = self.variables.get(name).and_then(|raw| text_of(raw));
        value.is_some() || self.file_of(name).is_some()
    }

    /// The text of a required setting.
    ///
    /// # Errors
    /// If it is not set and has no default, or as for [`text_or_file`](Self::text_or_file).
    pub fn required(&self, name: &'static str) -> Result<String, SettingsError> {
        self.text_or_file(name)?
            .ok_or_else(|| SettingsError::Missing { name, meaning: described(name).meaning })
    }

    /// A parsed value; `expected` describes the expected form.
    ///
    /// # Errors
    /// If the text can't be parsed, or if the setting is not set and has no default.
    pub fn parsed<T: FromStr>(
        &self,
        name: &'static str,
        expected: &str,
    ) -> Result<T, SettingsError> {
        let text = self.required(name)?;
        text.parse().map_err(|_| invalid(name, &text, expected))
    }

    /// A whole number within a range.
    ///
    /// # Errors
    /// If it is not a number, or not in the range.
    pub fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<u32, SettingsError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number: u32 = self.parsed(name, &expected)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(invalid(name, &number.to_string(), &expected))
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn switch(&self, name: &'static str) -> Result<bool, SettingsError> {
        let text = self.required(name)?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" => Ok(true),
            "false" | "0" | "off" => Ok(false),
            _ => Err(invalid(name, &text, "`true` or `false`")),
        }
    }
}

/// The text of a value, if it has one.
fn text_of(raw: &str) -> Option<String> {
    let text = reading::unquoted(raw).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The error for an invalid value.
#[must_use]
pub fn invalid(name: &'static str, value: &str, expected: &str) -> SettingsError {
    SettingsError::Invalid { name, value: value.to_owned(), expected: expected.to_owned() }
}
