//! Settings: every one of them stands in [`SETTINGS`], read from the environment by [`Settings`].

mod reading;
#[cfg(test)]
mod tests;
pub(crate) mod uri;

use std::{collections::BTreeMap, fmt, str::FromStr};

use self::reading::Reading;

/// One setting: an environment variable.
#[derive(Debug)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value when it is not set; none when it has none.
    pub default: Option<&'static str>,
    /// Who reads it.
    pub reader: &'static str,
    /// What it says, with its unit.
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

/// Every setting of gateway and worker. `docs/reference.md` shows this table; a test compares them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "SDB_DATABASE_URI",
        None,
        "both",
        "PostgreSQL itself, no pooler: `postgresql://user:password@host:port/name?sslmode=…`, or `…@/name?host=/folder` for a socket; `postgresql+psycopg2://` is accepted. Required, this or the next",
    ),
    setting(
        "SDB_SQLALCHEMY_DATABASE_URI",
        None,
        "both",
        "The Python dashboard's other name for the same; `SDB_DATABASE_URI` wins",
    ),
    setting(
        "SDB_AMQP_URI",
        None,
        "both",
        "RabbitMQ: `amqp://user:password@host:port/vhost`, or `amqps://`. Required",
    ),
    setting(
        "SDB_SECRET_KEY",
        None,
        "gateway",
        "The key that signs clients' tokens (HS256), 32 bytes or more. Required",
    ),
    setting(
        "SDB_SECRET_KEY_PREVIOUS",
        None,
        "gateway",
        "A key that is accepted too, while clients change over to a new one",
    ),
    setting("SDB_API_PAYLOAD_KEY", Some("stackmon"), "gateway", "The claim that a token must have"),
    setting("SDB_BIND", Some("127.0.0.1:8080"), "gateway", "Address and port to serve"),
    setting(
        "SDB_V1_CONFLICT",
        Some("false"),
        "gateway",
        "`true`: an update that changes nothing is answered as the Python dashboard does, 409 where an incident covers it and 201 where a maintenance does, instead of 200",
    ),
    setting(
        "SDB_MAX_CONNECTIONS",
        Some("4096"),
        "gateway",
        "HTTP connections at once; further ones wait to be accepted. Fewer where the limit of open files allows fewer",
    ),
    setting(
        "SDB_KEEP_ALIVE_SECONDS",
        Some("75"),
        "gateway",
        "Seconds that an idle HTTP connection is kept open; set it higher than the idle time-out of the proxy or balancer in front, 3600 at most",
    ),
    setting(
        "SDB_MAX_IN_FLIGHT",
        Some("2048"),
        "gateway",
        "Updates between arrival and answer at once; further ones get 503",
    ),
    setting(
        "SDB_RATE_LIMIT",
        Some("0"),
        "gateway",
        "Updates that each gateway takes from one token in a second, and at once; further ones get 429. `0`: no limit",
    ),
    setting(
        "SDB_DATABASE_CONNECTIONS",
        Some("8"),
        "gateway",
        "Database connections for answers; lists have a pool of the same size",
    ),
    setting(
        "SDB_MAX_LISTS",
        Some("4"),
        "gateway",
        "Lists over 4 MiB that are streamed at once; further ones get 503",
    ),
    setting(
        "SDB_ADMIN_ADDRESS",
        None,
        "both",
        "Address and port of its own for each process's `/healthz`, `/readyz` and `/metrics`, such as `127.0.0.1:9090`. Not set, a gateway has them at `SDB_BIND` and a worker has none",
    ),
    setting("SDB_BATCH", Some("512"), "worker", "Updates in one transaction, at most"),
    setting(
        "SDB_PARTITIONS",
        Some("8"),
        "both",
        "Queues that the components are spread over. Recorded by `worker migrate`, changed by `worker topology change`; a process that has another value does not start",
    ),
    setting(
        "SDB_QUEUE_LIMIT",
        Some("100000"),
        "both",
        "Messages that one queue holds; more get 503. A message has one update, or up to 32 that came at once. Recorded likewise",
    ),
    setting(
        "SDB_PREFETCH",
        Some("256"),
        "both",
        "Messages of one queue that a worker holds. Recorded likewise",
    ),
    setting("SDB_INBOX_DAYS", Some("30"), "both", "Days that the record of each update is kept"),
    setting(
        "SDB_LOG",
        Some("info"),
        "both",
        "What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,worker=debug`",
    ),
    setting("SDB_LOG_FORMAT", Some("text"), "both", "`text` or `json`"),
];

/// Names, or beginnings of names when they end in `_`, that only the Python dashboard knows.
const PYTHON_DASHBOARD_ONLY: &[&str] = &[
    "SDB_API_SECRETS",
    "SDB_API_TITLE",
    "SDB_API_VERSION",
    "SDB_APPLICATION_ROOT",
    "SDB_CACHE_",
    "SDB_CATALOG",
    "SDB_DEBUG",
    "SDB_EXPLAIN_TEMPLATE_LOADING",
    "SDB_GITHUB_",
    "SDB_INCIDENT_",
    "SDB_JSON_SORT_KEYS",
    "SDB_LOG_LEVEL",
    "SDB_MAINTENANCE_",
    "SDB_MAX_CONTENT_LENGTH",
    "SDB_OPENAPI_",
    "SDB_OPENID_",
    "SDB_PERMANENT_SESSION_LIFETIME",
    "SDB_PREFERRED_URL_SCHEME",
    "SDB_PROPAGATE_EXCEPTIONS",
    "SDB_SECRET_KEY_FALLBACKS",
    "SDB_SEND_FILE_MAX_AGE_DEFAULT",
    "SDB_SERVER_NAME",
    "SDB_SESSION_",
    "SDB_SQLALCHEMY_",
    "SDB_TEMPLATES_AUTO_RELOAD",
    "SDB_TESTING",
    "SDB_WTF_",
];

/// Settings of earlier releases, with what became of them.
const FORMER: &[(&str, &str)] =
    &[("SDB_AMQP_CHANNELS", "no effect any more: each partition has a channel of its own")];

/// A value that is never shown.
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

/// Why the settings can't be used. Its text says what to write.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A required setting is absent.
    #[error("{name} is not set: {meaning}")]
    Missing {
        /// Which.
        name: &'static str,
        /// What it says.
        meaning: &'static str,
    },
    /// A value that can't be used.
    #[error("{name} is `{value}`, but must be {expected}")]
    Invalid {
        /// Which.
        name: &'static str,
        /// The value, unless it is a secret.
        value: String,
        /// What to write instead.
        expected: String,
    },
}

/// The environment's `SDB_` variables.
pub struct Settings {
    variables: BTreeMap<String, String>,
}

impl Settings {
    /// Of this process.
    #[must_use]
    pub fn from_environment() -> Self {
        // A value that is not UTF-8 is kept with replacement characters; its reader refuses it.
        Self::new(std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        }))
    }

    /// Of these variables.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables =
            variables.into_iter().filter(|(name, _)| name.starts_with("SDB_")).collect();
        Self { variables }
    }

    /// The text of a setting: what is set, else its default. Empty counts as not set. What is written
    /// as a JSON text, in double quotes, is the text between them, as the Python dashboard has it.
    #[must_use]
    pub fn text(&self, name: &'static str) -> Option<String> {
        let set = self.variables.get(name).map(|raw| reading::unquoted(raw).trim().to_owned());
        let set = set.filter(|text| !text.is_empty());
        set.or_else(|| described(name).default.map(str::to_owned))
    }

    /// Every text that a setting may mean which the Python dashboard compares byte by byte: a key or
    /// the name of a claim. First as it reads it: decoded where it is JSON, and never trimmed. Then, if
    /// that is another text, as this program read it before it knew that: trimmed and not decoded. None
    /// when it is neither set nor has a default.
    ///
    /// # Errors
    /// When it is no text to the Python dashboard, which refuses every token then.
    pub fn readings(&self, name: &'static str) -> Result<Vec<String>, SettingsError> {
        let Some(raw) = self.variables.get(name).filter(|raw| !raw.trim().is_empty()) else {
            return Ok(described(name).default.map(str::to_owned).into_iter().collect());
        };
        // It may be a secret, so it is not shown.
        let refused = |expected: &str| Err(invalid(name, "…", expected));
        if raw.contains(char::REPLACEMENT_CHARACTER) {
            return refused("UTF-8");
        }
        let first = match reading::as_python(raw) {
            Reading::Text(text) if text.trim().is_empty() => return refused("a text"),
            Reading::Text(text) => text,
            Reading::NotText(what) => {
                return refused(&format!(
                    "a text, and as JSON it is {what}: the Python dashboard reads it so, and refuses \
                    every token with it. Write it in double quotes, as in `\"123\"`"
                ));
            }
        };
        let trimmed = raw.trim().to_owned();
        Ok(if trimmed == first { vec![first] } else { vec![first, trimmed] })
    }

    /// Whether a setting is set, rather than left at its default.
    #[must_use]
    pub fn is_set(&self, name: &'static str) -> bool {
        self.variables.get(name).is_some_and(|raw| !reading::unquoted(raw).trim().is_empty())
    }

    /// A required text.
    ///
    /// # Errors
    /// When it is not set.
    pub fn required(&self, name: &'static str) -> Result<String, SettingsError> {
        self.text(name)
            .ok_or_else(|| SettingsError::Missing { name, meaning: described(name).meaning })
    }

    /// A value with a default that is parsed, `expected` saying what it must be.
    ///
    /// # Errors
    /// When the text is not such a value.
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
    /// When it is not a number or out of the range.
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
    /// When it is neither.
    pub fn switch(&self, name: &'static str) -> Result<bool, SettingsError> {
        let text = self.required(name)?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(invalid(name, &text, "`true` or `false`")),
        }
    }

    /// The `SDB_` variables that nothing here reads: those that only the Python dashboard knows,
    /// and those that nobody does.
    #[must_use]
    pub fn not_ours(&self) -> NotOurs {
        let (python, unknown) = self
            .variables
            .keys()
            .filter(|name| !SETTINGS.iter().any(|setting| setting.name == *name))
            .cloned()
            .partition(|name| {
                PYTHON_DASHBOARD_ONLY
                    .iter()
                    .any(|known| name == known || (known.ends_with('_') && name.starts_with(known)))
            });
        NotOurs { python, unknown }
    }
}

/// See [`Settings::not_ours`].
#[derive(Debug, PartialEq, Eq)]
pub struct NotOurs {
    /// Names of the Python dashboard's own.
    pub python: Vec<String>,
    /// Names that nobody knows, perhaps misspelt.
    pub unknown: Vec<String>,
}

impl NotOurs {
    /// Says so in the log.
    pub fn log(&self) {
        if !self.python.is_empty() {
            let names = self.python.join(", ");
            tracing::info!(names, "settings that only the Python dashboard reads are passed over");
        }
        for name in &self.unknown {
            if let Some((_, now)) = FORMER.iter().find(|(former, _)| name == former) {
                tracing::warn!(name, now, "a setting of an earlier release is passed over");
                continue;
            }
            tracing::warn!(name, "no such setting: docs/reference.md lists them");
        }
    }
}

/// The error for a value that can't be used.
#[must_use]
pub fn invalid(name: &'static str, value: &str, expected: &str) -> SettingsError {
    SettingsError::Invalid { name, value: value.to_owned(), expected: expected.to_owned() }
}

#[expect(clippy::expect_used, reason = "names are literals of this program, and a test reads all")]
fn described(name: &'static str) -> &'static Setting {
    SETTINGS.iter().find(|s| s.name == name).expect("a setting that is read stands in SETTINGS")
}
