//! What a worker reports about itself: readiness, metrics, and the HTTP endpoints that show them.

pub(crate) mod blockers;
pub(crate) mod http;
pub(crate) mod readiness;
pub(crate) mod sampling;
