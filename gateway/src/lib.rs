//! The gateway: accepts status updates over HTTP and publishes them to RabbitMQ, and serves what is in
//! the database. It never applies updates and never writes.

mod alertmanager;
mod api;
pub mod auth;
mod calendar;
pub mod cli;
pub mod config;
mod gateway;
mod http;
mod ingest;
mod lists;
mod loaded_mapping;
mod middleware;
mod openapi;
mod pages;
pub mod server;
mod shutdown_stages;
mod store;
mod uptime;
mod view;
