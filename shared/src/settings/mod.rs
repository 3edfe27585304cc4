//! Environment variables: the table of all settings ([`SETTINGS`]), and how one of them is parsed
//! ([`Settings`]). Each program's `config.rs` makes its typed configuration of them.

mod reading;
#[cfg(test)]
mod tests;
mod unused;
pub(crate) mod uri;

use std::{collections::BTreeMap, fmt, str::FromStr};

use self::reading::Reading;
pub use self::unused::UnusedVariables;

/// One setting: an environment variable.
#[derive(Debug)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value if it is not set, if it has one.
    pub default: Option<&'static str>,
    /// The program that reads it, or `both`.
    pub reader: &'static str,
    /// Its meaning, with the unit.
    pub meaning: &'static str,
}

const fn setting(
    name: &'static str,
    default: Option<&'static str>,
    reader: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { name, default, reader, meaning }
}

/// All settings of gateways and workers. `docs/reference.md` has the same table; a test compares them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "SDB_DATABASE_URI",
        None,
        "both",
        "PostgreSQL itself, not a pooler: `postgresql://user:password@host:port/name?sslmode=…`, or `…@/name?host=/folder` for a socket; several servers as `…@host1:port1,host2:port2/name`, of which the primary is used; `postgresql+psycopg2://` is accepted. Either this setting or the next is required",
    ),
    setting(
        "SDB_SQLALCHEMY_DATABASE_URI",
        None,
        "both",
        "The Python dashboard's other name for the same setting; `SDB_DATABASE_URI` takes precedence",
    ),
    setting(
        "SDB_AMQP_URI",
        None,
        "both",
        "RabbitMQ: `amqp://user:password@host:port/vhost`, or `amqps://`; the nodes of a cluster separated by commas, `…@host1:port1,host2:port2/vhost`. Required",
    ),
    setting(
        "SDB_SECRET_KEY",
        None,
        "gateway",
        "The key that signs clients' tokens (HS256), at least 32 bytes. Required",
    ),
    setting(
        "SDB_SECRET_KEY_PREVIOUS",
        None,
        "gateway",
        "A second key that is accepted while clients change to a new one",
    ),
    setting("SDB_API_PAYLOAD_KEY", Some("stackmon"), "gateway", "The claim that a token must have"),
    setting("SDB_BIND", Some("127.0.0.1:8080"), "gateway", "Address and port to listen on"),
    setting(
        "SDB_V1_CONFLICT",
        Some("false"),
        "gateway",
        "`true`: an update that changes nothing is answered as by the Python dashboard, 409 if an incident covers it and 201 if a maintenance does, instead of 200",
    ),
    setting(
        "SDB_MAX_CONNECTIONS",
        Some("4096"),
        "gateway",
        "Maximum number of HTTP connections; further ones wait to be accepted. A lower limit of open files reduces it",
    ),
    setting(
        "SDB_KEEP_ALIVE_SECONDS",
        Some("75"),
        "gateway",
        "Seconds that an idle HTTP connection is kept open, at most 3600; set it higher than the idle time-out of the proxy or load balancer in front",
    ),
    setting(
        "SDB_MAX_IN_FLIGHT",
        Some("2048"),
        "gateway",
        "Maximum number of updates between arrival and answer; further ones get 503",
    ),
    setting(
        "SDB_RATE_LIMIT",
        Some("0"),
        "gateway",
        "Maximum number of updates per second that each gateway accepts from one token, and the size of a burst; further ones get 429. `0`: no limit",
    ),
    setting(
        "SDB_DATABASE_CONNECTIONS",
        Some("8"),
        "gateway",
        "Number of database connections for answers; lists have another pool of the same size",
    ),
    setting(
        "SDB_MAX_LISTS",
        Some("4"),
        "gateway",
        "Maximum number of lists over 4 MiB that are streamed at the same time; further ones get 503",
    ),
    setting(
        "SDB_ALERT_MAPPING",
        None,
        "gateway",
        "File (YAML) that maps alerts to components, for `gateway mapping`. If it is not set, the default rule applies: see [mapping of alerts](reference/alert-mapping.md)",
    ),
    setting(
        "SDB_ADMIN_ADDRESS",
        None,
        "both",
        "Separate address and port for `/healthz`, `/readyz` and `/metrics` of each process, such as `127.0.0.1:9090`. If it is not set, a gateway serves them at `SDB_BIND`, and a worker does not serve them",
    ),
    setting("SDB_BATCH", Some("512"), "worker", "Maximum number of updates in one transaction"),
    setting(
        "SDB_PARTITIONS",
        Some("1"),
        "both",
        "Number of queues over which the components are distributed, and of workers that share them. Recorded by `worker migrate`, changed by `worker topology change`; a process with another value does not start",
    ),
    setting(
        "SDB_QUEUE_LIMIT",
        Some("100000"),
        "both",
        "Maximum number of messages in one queue; further ones get 503. A message has one update, or up to 32 that arrived at once. Recorded likewise",
    ),
    setting(
        "SDB_PREFETCH",
        Some("1024"),
        "both",
        "Maximum number of unacknowledged messages of one queue that a worker holds. Recorded likewise",
    ),
    setting(
        "SDB_INBOX_DAYS",
        Some("30"),
        "both",
        "Days for which the record of each update is kept",
    ),
    setting(
        "SDB_LOG",
        Some("info"),
        "both",
        "Log level: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,worker=debug`",
    ),
    setting("SDB_LOG_FORMAT", Some("text"), "both", "`text` or `json`"),
];

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

    /// The text of a setting, or its default if it is empty or not set. A value in double quotes is decoded
    /// as a JSON string, as the Python dashboard does.
    #[must_use]
    pub fn text(&self, name: &'static str) -> Option<String> {
        let set = self.variables.get(name).map(|raw| reading::unquoted(raw).trim().to_owned());
        let set = set.filter(|text| !text.is_empty());
        set.or_else(|| described(name).default.map(str::to_owned))
    }

    /// All readings of a setting that the Python dashboard compares byte by byte: a key or the name of a
    /// claim. The first is that dashboard's: decoded if it is JSON, and never trimmed. The second, if it
    /// differs, is that of earlier versions of this program: trimmed and not decoded. None if the setting is
    /// not set and has no default.
    ///
    /// # Errors
    /// If the Python dashboard would not read a text, and so would refuse every token.
    pub fn readings(&self, name: &'static str) -> Result<Vec<String>, SettingsError> {
        let Some(raw) = self.variables.get(name).filter(|raw| !raw.trim().is_empty()) else {
            return Ok(described(name).default.map(str::to_owned).into_iter().collect());
        };
        // It may be a secret, so it is not printed.
        let refused = |expected: &str| Err(invalid(name, "…", expected));
        if raw.contains(char::REPLACEMENT_CHARACTER) {
            return refused("UTF-8");
        }
        let first = match reading::as_python(raw) {
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

    /// Whether a setting is set and not empty.
    #[must_use]
    pub fn is_set(&self, name: &'static str) -> bool {
        self.variables.get(name).is_some_and(|raw| !reading::unquoted(raw).trim().is_empty())
    }

    /// The text of a required setting.
    ///
    /// # Errors
    /// If it is not set and has no default.
    pub fn required(&self, name: &'static str) -> Result<String, SettingsError> {
        self.text(name)
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
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(invalid(name, &text, "`true` or `false`")),
        }
    }
}

/// The error for an invalid value.
#[must_use]
pub fn invalid(name: &'static str, value: &str, expected: &str) -> SettingsError {
    SettingsError::Invalid { name, value: value.to_owned(), expected: expected.to_owned() }
}

#[expect(
    clippy::expect_used,
    reason = "names are literals of this program, and tests read all of them"
)]
fn described(name: &'static str) -> &'static Setting {
    SETTINGS.iter().find(|s| s.name == name).expect("every setting that is read is in SETTINGS")
}
