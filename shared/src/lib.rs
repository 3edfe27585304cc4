//! What gateway and worker share: domain types, the messages they exchange, the queues, settings, logs and
//! traces. It knows neither the web nor connection pools, but for the collector of traces and the admin
//! address.

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
    http::{admin, health, paths},
    process::{output, shutdown, supervise},
    telemetry::{metrics, throttle, traces},
    wire::{envelope, message},
};
