//! Connections to RabbitMQ, and the queues.

pub mod broker;
pub mod topology;
