//! Middleware: what every request and its response pass through.

pub(crate) mod api_v2;
pub(crate) mod metrics;
pub(crate) mod readable;
pub(crate) mod security_headers;
pub(crate) mod timeout;
pub(crate) mod tracing;
