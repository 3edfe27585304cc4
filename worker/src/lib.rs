//! The worker: consumes its partitions in order, decides, and writes batches of updates.

mod apply_affected;
pub mod batch;
mod broker;
mod catalogue;
pub mod cli;
pub mod config;
pub mod domain;
mod housekeeping;
mod membership;
mod observe;
mod operator;
pub mod schema;
pub mod service;
pub mod store;
