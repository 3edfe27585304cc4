//! How both programs connect to RabbitMQ.

mod address;
mod hosts;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::OwnedTLSConfig,
    uri::{AMQPScheme, AMQPUri},
};
use tokio::{
    net::lookup_host,
    time::{Instant, timeout},
};

use self::hosts::Hosts;
use crate::{
    http::servers_report::ServersReport,
    settings::{Settings, SettingsError, invalid},
    telemetry::chain,
    throttled,
};

/// Time limit for connecting to one address, including the handshake: a stalled server accepts connections,
/// and sends nothing.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The same for the first attempt, so that a stalled server does not hold up another one.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// Time for RabbitMQ to end a connection that was only tried.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The address of RabbitMQ: that of one node, or of several nodes of a cluster.
#[derive(Clone)]
pub struct Broker {
    /// One for each host.
    uris: Arc<[AMQPUri]>,
    hosts: Arc<Hosts>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// RabbitMQ or the network refused.
    #[error("RabbitMQ can't be reached")]
    Refused(#[source] lapin::Error),
    /// The host's name is unknown, or can't be looked up.
    #[error("the host of RabbitMQ can't be looked up")]
    Unresolved(#[source] std::io::Error),
    /// No answer.
    #[error("RabbitMQ did not answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// Each host failed.
    #[error("RabbitMQ can't be reached at any of its hosts: {0}")]
    NoHost(String),
}

const NAME: &str = "SDB_AMQP_URI";
const EXPECTED: &str = "`amqp://user:password@host:port/vhost` or `amqps://…`";

impl Broker {
    /// From the settings.
    ///
    /// # Errors
    /// If no address is set, or if it is invalid.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        // The address has the password, so it is not printed.
        let uris = address::parse(&settings.required(NAME)?)
            .map_err(|problem| invalid(NAME, "…", &format!("{EXPECTED}: {problem}")))?;
        let names = uris.iter().map(|uri| name(&uri.authority.host, uri.authority.port));
        Ok(Self { hosts: Arc::new(Hosts::new(names.collect())), uris: uris.into() })
    }

    /// The host and port for traces, if there is only one.
    #[must_use]
    pub fn address(&self) -> Option<(String, u16)> {
        match &*self.uris {
            [one] => Some((one.authority.host.clone(), one.authority.port)),
            _ => None,
        }
    }

    /// Whether these are several nodes of a cluster.
    #[must_use]
    pub fn has_several_hosts(&self) -> bool {
        self.uris.len() > 1
    }

    /// The host that connections for this purpose use, and those that failed when they were last tried.
    #[must_use]
    pub fn report(&self, purpose: &str) -> ServersReport {
        self.hosts.report(purpose)
    }

    /// Records why the last connection for a purpose was given up: its host is tried last for a while.
    pub fn lost(&self, purpose: &str, reason: &str) {
        self.hosts.lost(purpose, reason);
    }

    /// The connection for a purpose is used for another one from now on.
    pub fn reuse(&self, purpose: &str, other: &str) {
        self.hosts.reuse(purpose, other);
    }

    /// Opens a connection; `purpose` names it in RabbitMQ's lists. The hosts are tried in random order, those
    /// that have just failed last.
    ///
    /// It does not reconnect automatically: a recovered connection would send what its callers had given
    /// up, and a consumer would mix old deliveries with new ones.
    ///
    /// # Errors
    /// When RabbitMQ can't be reached in time.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        self.connect_to_one(self.hosts.order(Instant::now()), purpose).await
    }

    /// The same, but not to the host that the last connection for another purpose uses.
    ///
    /// # Errors
    /// When there is no other host, or none can be reached in time.
    pub async fn connect_apart(
        &self,
        purpose: &str,
        other: &str,
    ) -> Result<Connection, ConnectError> {
        let mut hosts = self.hosts.order(Instant::now());
        let used = self.hosts.used(other);
        hosts.retain(|host| used != Some(*host));
        self.connect_to_one(hosts, purpose).await
    }

    async fn connect_to_one(
        &self,
        mut hosts: Vec<usize>,
        purpose: &str,
    ) -> Result<Connection, ConnectError> {
        let mut errors: Vec<Option<ConnectError>> = Vec::new();
        errors.resize_with(self.uris.len(), || None);
        // Those that are only slow, because they are far away, are tried again with more time.
        for limit in [FIRST_LIMIT, CONNECT_LIMIT] {
            let mut silent = Vec::new();
            for host in hosts {
                match self.connect_to(host, purpose, limit).await {
                    Ok(connection) => {
                        self.hosts.connected(purpose, host);
                        return Ok(connection);
                    }
                    Err(error) => {
                        if matches!(error, ConnectError::Silent(_)) {
                            silent.push(host);
                        }
                        self.record(host, &error);
                        if let Some(place) = errors.get_mut(host) {
                            *place = Some(error);
                        }
                    }
                }
            }
            hosts = silent;
        }
        Err(self.failure(errors))
    }

    /// Connects to each host for a moment, and returns how many can't be reached.
    pub async fn count_unreachable(&self, purpose: &str) -> usize {
        let mut unreachable = 0;
        for host in 0..self.uris.len() {
            match self.connect_to(host, purpose, CONNECT_LIMIT).await {
                // If it is not closed in time, it ends with its socket.
                Ok(connection) => {
                    drop(timeout(CLOSE_LIMIT, connection.close(200, "tried".into())).await);
                }
                Err(error) => {
                    self.record(host, &error);
                    unreachable += 1;
                }
            }
        }
        unreachable
    }

    fn record(&self, host: usize, error: &ConnectError) {
        let (name, reason) = (self.hosts.name(host), chain(error));
        if self.uris.len() > 1 {
            throttled!(warn, name, host = name, reason, "a host of RabbitMQ can't be used");
        }
        self.hosts.failed(host, reason);
    }

    fn failure(&self, mut errors: Vec<Option<ConnectError>>) -> ConnectError {
        if errors.len() == 1
            && let Some(error) = errors.pop().flatten()
        {
            return error;
        }
        let each = errors.iter().enumerate().filter_map(|(host, error)| {
            Some(format!("{}: {}", self.hosts.name(host), chain(error.as_ref()?)))
        });
        ConnectError::NoHost(each.collect::<Vec<_>>().join("; "))
    }

    /// Connects to a host: to each of its addresses, with this time limit for each. The client would try all of
    /// them within one.
    async fn connect_to(
        &self,
        host: usize,
        purpose: &str,
        limit: Duration,
    ) -> Result<Connection, ConnectError> {
        let Some(uri) = self.uris.get(host) else {
            return Err(ConnectError::NoHost(String::new()));
        };
        let asked = uri.query.connection_timeout.map(Duration::from_millis);
        let limit = asked.map_or(limit, |asked| asked.min(CONNECT_LIMIT));
        let asking = lookup_host((uri.authority.host.as_str(), uri.authority.port));
        let addresses = timeout(limit, asking).await.map_err(|_| ConnectError::Silent(limit))?;
        let mut failure = None;
        for at in addresses.map_err(ConnectError::Unresolved)? {
            match timeout(limit, connect_at(uri.clone(), at, purpose)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => {
                    failure.get_or_insert(ConnectError::Refused(error));
                }
                // Said rather than a refusal, because it is tried again.
                Err(_) => failure = Some(ConnectError::Silent(limit)),
            }
        }
        Err(failure.unwrap_or_else(|| ConnectError::NoHost("it has no address".to_owned())))
    }
}

/// Connects to one address of a host.
async fn connect_at(
    uri: AMQPUri,
    at: SocketAddr,
    purpose: &str,
) -> Result<Connection, lapin::Error> {
    let properties = ConnectionProperties::default().with_connection_name(purpose.into());
    let runtime = lapin::runtime::default_runtime()?;
    let stream = async move |uri: AMQPUri, runtime: _| {
        let stream = AsyncTcpStream::connect(&runtime, at).await?;
        Ok(match uri.scheme {
            AMQPScheme::AMQP => stream,
            AMQPScheme::AMQPS => {
                let tls = OwnedTLSConfig::default();
                stream.into_tls(&uri.authority.host, tls.as_ref()).await?
            }
        })
    };
    Connection::connector(uri, runtime, stream, properties).await
}

/// A host with its port, as in an address.
fn name(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests;
