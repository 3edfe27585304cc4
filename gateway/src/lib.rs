//! The gateway: takes status updates over HTTP and publishes them, and shows what is in the
//! database. It never decides and never writes.

mod api;
pub mod auth;
pub mod config;
mod docs;
mod gateway;
mod http;
mod ingest;
mod lists;
mod middleware;
pub mod server;
mod store;
