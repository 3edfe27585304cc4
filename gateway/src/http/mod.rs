//! HTTP in general: errors, headers, queries, bodies. It depends on no endpoint and no server.

pub(crate) mod address;
pub(crate) mod api_path;
pub(crate) mod body;
pub(crate) mod body_headers;
pub(crate) mod content_coding;
pub(crate) mod error;
pub(crate) mod idempotency_key;
pub(crate) mod if_none_match;
pub(crate) mod impact;
pub(crate) mod list;
pub(crate) mod prefer;
pub(crate) mod query;
pub(crate) mod reader;
pub(crate) mod receipt;
pub(crate) mod schema;
pub(crate) mod transfer;
