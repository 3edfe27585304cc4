//! The worker: consumes its partitions in order, decides, and writes batches of updates.

pub mod admin;
pub mod catalogue;
pub mod config;
mod consumer;
pub mod decision;
pub mod history;
mod http;
mod inbox;
mod lookup;
mod measure;
pub mod membership;
pub mod migrate;
pub mod parked;
pub mod policies;
mod redeclare;
mod replies;
pub mod reshape;
pub mod run;
mod settle;
mod standing;
mod state;
pub mod step;
mod write;
