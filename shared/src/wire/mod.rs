//! The messages between gateways and workers, by version.

pub mod envelope;
pub mod message;
