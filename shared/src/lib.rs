//! What gateway and worker share: domain types, the messages they exchange, the queues, settings, logs and
//! traces. It has no routes and no pools; its only HTTP is the trace exporter and the admin listener.

pub mod amqp;
pub mod database;
pub mod domain;
pub mod http;
pub mod process;
pub mod settings;
pub mod telemetry;
pub mod wire;
pub mod yaml;
