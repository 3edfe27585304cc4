//! How both programs connect to RabbitMQ.

use std::time::Duration;

use lapin::{
    Connection, ConnectionProperties,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use tokio::time::timeout;

use crate::settings::{
    Settings, SettingsError, invalid,
    uri::{Problem, Uri},
};

/// Time limit for connecting, including the handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Seconds between heartbeats: RabbitMQ closes the connection of a peer that is silent for two to three
/// intervals. It is short, because the messages of a stalled worker are redelivered only then.
const HEARTBEAT: u16 = 2;

/// The address of RabbitMQ.
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
    #[error("RabbitMQ did not answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
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
        let uri = parse(&settings.required(NAME)?)
            .map_err(|problem| invalid(NAME, "…", &format!("{EXPECTED}: {problem}")))?;
        Ok(Self { uri })
    }

    /// Its host and port, for traces.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        (self.uri.authority.host.clone(), self.uri.authority.port)
    }

    /// Opens a connection; `purpose` names it in RabbitMQ's lists.
    ///
    /// It does not reconnect automatically: a recovered connection would send what its callers had given
    /// up, and a consumer would mix old deliveries with new ones.
    ///
    /// # Errors
    /// When RabbitMQ can't be reached in time.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let properties = ConnectionProperties::default().with_connection_name(purpose.into());
        let asked = self.uri.query.connection_timeout.map(Duration::from_millis);
        let limit = asked.map_or(CONNECT_LIMIT, |asked| asked.min(CONNECT_LIMIT));
        timeout(limit, Connection::connect_uri(self.uri.clone(), properties))
            .await
            .map_err(|_| ConnectError::Silent(limit))?
            .map_err(ConnectError::Refused)
    }
}

/// The supported parameters of an address of RabbitMQ.
const KNOWN: &str =
    "`heartbeat`, `frame_max`, `channel_max`, `connection_timeout` and `auth_mechanism`";

/// Parses an address according to RabbitMQ's URI specification. The client's own parser does not support
/// IPv6 addresses, and uses `localhost` instead.
fn parse(text: &str) -> Result<AMQPUri, Problem> {
    let uri = Uri::parse(text)?;
    let scheme = match &*uri.scheme {
        "amqp" => AMQPScheme::AMQP,
        "amqps" => AMQPScheme::AMQPS,
        _ => return Err(Problem::Scheme),
    };
    let [(host, port)] = <[_; 1]>::try_from(uri.hosts).map_err(|_| Problem::SeveralHosts)?;
    let host = host.ok_or(Problem::NoHost)?;
    if host.starts_with('/') {
        return Err(Problem::Host);
    }
    if scheme == AMQPScheme::AMQPS && host.contains('%') {
        return Err(Problem::ZoneWithTls);
    }
    let vhost = match uri.path {
        None => "/".to_owned(),
        Some(vhost) if vhost.is_empty() => return Err(Problem::EmptyVhost),
        Some(vhost) => vhost,
    };
    let AMQPUserInfo { username, password } = AMQPUserInfo::default();
    let userinfo = AMQPUserInfo {
        username: uri.user.unwrap_or(username),
        password: uri.password.unwrap_or(password),
    };
    let port = port.unwrap_or_else(|| scheme.default_port());
    let query = query(uri.query)?;
    Ok(AMQPUri { scheme, authority: AMQPAuthority { userinfo, host, port }, vhost, query })
}

fn query(parameters: Vec<(String, String)>) -> Result<AMQPQueryString, Problem> {
    let mut query = AMQPQueryString::default();
    let mut seen = Vec::new();
    for (place, (name, value)) in parameters.into_iter().enumerate() {
        let name = match &*name {
            "heartbeat" => {
                query.heartbeat = Some(number("heartbeat", &value)?);
                "heartbeat"
            }
            "frame_max" => {
                query.frame_max = Some(number("frame_max", &value)?);
                "frame_max"
            }
            "channel_max" => {
                query.channel_max = Some(number("channel_max", &value)?);
                "channel_max"
            }
            "connection_timeout" => {
                query.connection_timeout = Some(number("connection_timeout", &value)?);
                "connection_timeout"
            }
            "auth_mechanism" => {
                let expected = "is none of plain, amqplain, external, anonymous";
                let unknown = |_| Problem::Parameter("auth_mechanism", expected);
                query.auth_mechanism = Some(value.parse().map_err(unknown)?);
                "auth_mechanism"
            }
            // An ignored parameter could be one that makes the connection secure.
            _ => return Err(Problem::UnknownParameter { place: place + 1, known: KNOWN }),
        };
        if seen.contains(&name) {
            return Err(Problem::Twice(name));
        }
        seen.push(name);
    }
    query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(query)
}

fn number<T: std::str::FromStr>(name: &'static str, value: &str) -> Result<T, Problem> {
    let expected = "is not a whole number that it can have";
    value.parse().map_err(|_| Problem::Parameter(name, expected))
}

#[cfg(test)]
mod tests;
