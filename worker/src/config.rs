//! The worker's settings.

use std::net::SocketAddr;

use shared::{
    amqp::broker::Broker,
    database::{self, ConnectOptions},
    http::admin,
    settings::{Settings, SettingsError},
};

/// What `worker run` needs.
pub struct Config {
    /// PostgreSQL.
    pub database: ConnectOptions,
    /// RabbitMQ.
    pub broker: Broker,
    /// Maximum number of updates in one transaction.
    pub batch: usize,
    /// Days that the record of each update is kept.
    pub inbox_days: u32,
    /// Address and port for health and metrics, if they are served.
    pub admin: Option<SocketAddr>,
}

impl Config {
    /// From the settings.
    ///
    /// # Errors
    /// When one is missing or invalid; the message names the expected form.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            database: database::connect_options(settings, "worker")?.with(database::BY_INDEX),
            broker: Broker::from_settings(settings)?,
            batch: settings.number("SDB_BATCH", 1..=10_000)? as usize,
            inbox_days: settings.number("SDB_INBOX_DAYS", 1..=3_650)?,
            admin: admin::address(settings)?,
        })
    }
}
