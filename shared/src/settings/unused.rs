//! The `SDB_` variables that these programs do not read.

use super::{SETTINGS, Settings, secret_file};

/// Names, or prefixes if they end in `_`, that only the Python dashboard uses.
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

impl Settings {
    /// The `SDB_` variables that these programs do not read: those of the Python dashboard, and unknown
    /// ones.
    #[must_use]
    pub fn unused(&self) -> UnusedVariables {
        let (python, unknown) = self
            .variables
            .keys()
            .filter(|name| !SETTINGS.iter().any(|setting| setting.name == *name))
            .filter(|name| !secret_file::is_known(name))
            .cloned()
            .partition(|name| {
                PYTHON_DASHBOARD_ONLY
                    .iter()
                    .any(|known| name == known || (known.ends_with('_') && name.starts_with(known)))
            });
        UnusedVariables { python, unknown }
    }
}

/// See [`Settings::unused`].
#[derive(Debug, PartialEq, Eq)]
pub struct UnusedVariables {
    /// Names that only the Python dashboard uses.
    pub python: Vec<String>,
    /// Unknown names, possibly misspelt.
    pub unknown: Vec<String>,
}

impl UnusedVariables {
    /// Logs them.
    pub fn log(&self) {
        if !self.python.is_empty() {
            let names = self.python.join(", ");
            tracing::info!(names, "ignoring settings that only the Python dashboard uses");
        }
        for name in &self.unknown {
            if let Some((_, now)) = FORMER.iter().find(|(former, _)| name == former) {
                tracing::warn!(name, now, "ignoring a setting of an earlier release");
                continue;
            }
            tracing::warn!(name, "unknown setting: docs/reference.md lists all settings");
        }
    }
}
