//! The words that gateway and worker share: domain types, the messages they exchange, the
//! broker's topology, settings, logging and traces. It knows neither the web nor connection pools, but
//! for the collector of traces and the admin address.

pub mod admin;
pub mod broker;
pub mod component;
pub mod database;
pub mod health;
pub mod impact;
pub mod incident;
pub mod message;
pub mod metrics;
pub mod outcome;
pub mod output;
pub mod parked;
pub mod paths;
pub mod seldom;
pub mod settings;
pub mod shorten;
pub mod shutdown;
pub mod supervise;
pub mod telemetry;
pub mod timestamp;
pub mod topology;
pub mod traces;
pub mod update;
mod uri;
