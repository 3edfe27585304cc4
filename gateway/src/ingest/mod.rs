//! The way of updates into the queues, and of their outcomes back.

mod circuit_breaker;
pub(crate) mod pending;
pub(crate) mod publisher;
pub(crate) mod submit;
