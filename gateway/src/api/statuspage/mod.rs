//! The JSON of Statuspage's public API v2, which many tools read.

mod format;
pub(crate) mod get_document;
