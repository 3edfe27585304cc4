//! The worker: consumes its partitions in order, decides, and writes batches of updates.

pub mod admin;
mod blockers;
pub mod catalogue;
pub mod config;
mod consumer;
pub mod decision;
mod facts;
mod held;
pub mod history;
mod http;
mod inbox;
mod measure;
pub mod membership;
pub mod migrate;
pub mod parked;
pub mod policies;
mod redeclare;
mod replies;
pub mod reshape;
mod row_locks;
pub mod run;
mod settle;
mod standing;
mod state;
pub mod step;
mod write;
