//! How both programs connect to RabbitMQ.

use std::time::Duration;

use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use tokio::time::timeout;

use crate::settings::{Settings, SettingsError, invalid};

/// Time that a connection may take, its handshake included.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Seconds between heartbeats: a peer that is silent for two to three times as long is given up. Few
/// seconds, since nobody else gets the messages of a worker that stalls before.
const HEARTBEAT: u16 = 2;

/// Where RabbitMQ is.
#[derive(Clone)]
pub struct Broker {
    uri: AMQPUri,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// RabbitMQ or the network refused.
    #[error("RabbitMQ can't be reached")]
    Refused(#[source] lapin::Error),
    /// No answer.
    #[error("RabbitMQ did not answer within {} s", CONNECT_LIMIT.as_secs())]
    Silent,
}

impl Broker {
    /// The one that the settings name.
    ///
    /// # Errors
    /// When none is named, or in a way that can't be read.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        const NAME: &str = "SDB_AMQP_URI";
        // The URI holds the password, so neither it nor the parser's error is shown.
        let mut uri: AMQPUri = settings.required(NAME)?.parse().map_err(|_| {
            invalid(NAME, "…", "`amqp://user:password@host:port/vhost` or `amqps://…`")
        })?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self { uri })
    }

    /// Its host and port, for traces.
    pub(crate) fn address(&self) -> (String, u16) {
        (self.uri.authority.host.clone(), self.uri.authority.port)
    }

    /// Opens a connection; `purpose` names it in RabbitMQ's lists.
    ///
    /// It does not reconnect by itself: a connection that came back would send what its callers
    /// had given up, and a consumer's would mix old deliveries with new ones.
    ///
    /// # Errors
    /// When RabbitMQ can't be reached in time.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let properties = ConnectionProperties::default().with_connection_name(purpose.into());
        timeout(CONNECT_LIMIT, Connection::connect_uri(self.uri.clone(), properties))
            .await
            .map_err(|_| ConnectError::Silent)?
            .map_err(ConnectError::Refused)
    }
}
