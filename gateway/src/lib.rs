//! The gateway: takes status updates over HTTP and publishes them, and shows what is in the
//! database. It never decides and never writes.

mod app;
pub mod auth;
mod broker;
mod catalogue;
mod clock;
pub mod config;
mod error;
pub mod files;
mod headers;
mod incident;
mod json;
mod list;
mod openapi;
mod pace;
mod prefer;
mod query;
mod rate;
mod request;
mod routes;
pub mod server;
mod silence;
mod socket;
pub mod token;
mod traced;
mod transfer;
mod waiters;
