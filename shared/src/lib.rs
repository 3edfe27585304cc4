//! What gateway and worker share: domain types, the messages they exchange, the queues, settings, logs and
//! traces. It has no routes and no pools; its only HTTP is the trace exporter and the admin listener.

mod amqp;
pub mod database;
mod domain;
mod http;
mod process;
pub mod settings;
pub mod telemetry;
mod wire;
pub mod yaml;

pub use self::{
    amqp::{broker, topology},
    database::parked,
    domain::{component, condition, impact, incident, outcome, shorten, timestamp, update_id},
    http::{admin, health, paths, servers_report},
    process::{output, service_manager, stop_signal, supervise},
    telemetry::{metrics, throttle, traces},
    wire::{envelope, marker, message},
};
