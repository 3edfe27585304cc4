//! Logs, metrics and traces.

mod log;
pub mod metrics;
pub mod throttle;
pub mod traces;

pub use self::log::{chain, init};
