//! Serves HTTP within limits, and starts all parts of the gateway.

mod connection;
mod connection_timeouts;
mod listener;
mod open_files;
mod router;
mod socket;
mod start;

pub use self::start::{BuildError, Server, build};
