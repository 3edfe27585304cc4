//! Connections to RabbitMQ, and the topology of exchanges and queues.

pub mod broker;
pub mod topology;
