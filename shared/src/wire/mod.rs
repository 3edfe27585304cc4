//! The messages between gateways and workers, by version.

pub mod envelope;
pub mod marker;
pub mod message;
