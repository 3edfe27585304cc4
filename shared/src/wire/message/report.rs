//! Whose status update it is, and what else its sender says of it.

use serde::{Deserialize, Serialize};

use crate::domain::timestamp::Timestamp;

/// Maximum number of characters of a source, and of a key.
pub const MAX_REPORT_NAME: usize = 255;

/// What identifies the report that an update begins, renews or ends, beside the component, and what its
/// sender says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who speaks; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// What of several matters of the component the source speaks about; empty if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// For how long the sender says that it is valid, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// When what it reports began, by the sender's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// When what it reports ended, by the sender's clock; only with `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
}

/// Whether a text can be a source: 1 to 255 characters, none a control character.
#[must_use]
pub fn is_source(text: &str) -> bool {
    (1..=MAX_REPORT_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}
