//! What every request passes on its way to its endpoint, and its answer on the way back.

pub(crate) mod limits;
pub(crate) mod metrics;
pub(crate) mod security_headers;
pub(crate) mod tracing;
