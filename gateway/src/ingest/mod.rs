//! The way of updates into the queues, and of their outcomes back.

pub(crate) mod pending;
pub(crate) mod publisher;
mod silence;
pub(crate) mod submit;
