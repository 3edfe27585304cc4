//! HTTP in general: errors, headers, queries, bodies. It depends on no endpoint and no server.

pub(crate) mod body;
pub(crate) mod conditions;
pub(crate) mod error;
pub(crate) mod impact;
pub(crate) mod list;
pub(crate) mod prefer;
pub(crate) mod query;
pub(crate) mod receipt;
pub(crate) mod request;
pub(crate) mod schema;
pub(crate) mod transfer;
