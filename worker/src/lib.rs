//! The worker: consumes its partitions in order, decides, and writes batches of updates.

pub mod batch;
pub mod broker;
pub mod catalogue;
pub mod config;
pub mod domain;
mod membership;
pub mod migrate;
mod observe;
pub mod operator;
pub mod service;
pub mod store;
