//! Parses the address of RabbitMQ, according to its URI specification. The client's own parser does not
//! support several hosts or IPv6 addresses, and uses `localhost` instead of the latter.

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

use crate::settings::uri::{HostAndPort, Problem, Uri};

/// Seconds between heartbeats: RabbitMQ closes the connection of a peer that is silent for two to three
/// intervals. It is short, because the messages of a stalled worker are redelivered only then.
pub(super) const HEARTBEAT: u16 = 2;

/// The supported parameters of an address of RabbitMQ.
const KNOWN: &str =
    "`heartbeat`, `frame_max`, `channel_max`, `connection_timeout` and `auth_mechanism`";

/// Parses an address; returns one for each of its hosts.
pub(super) fn parse(text: &str) -> Result<Vec<AMQPUri>, Problem> {
    let uri = Uri::parse(text)?;
    let scheme = match &*uri.scheme {
        "amqp" => AMQPScheme::AMQP,
        "amqps" => AMQPScheme::AMQPS,
        _ => return Err(Problem::Scheme),
    };
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
    let query = query(uri.query)?;
    let one = |written: HostAndPort| {
        let (host, port) = host(&scheme, written)?;
        let authority = AMQPAuthority { userinfo: userinfo.clone(), host, port };
        let (scheme, vhost, query) = (scheme.clone(), vhost.clone(), query.clone());
        Ok(AMQPUri { scheme, authority, vhost, query })
    };
    uri.hosts.into_iter().map(one).collect()
}

fn host(scheme: &AMQPScheme, (host, port): HostAndPort) -> Result<(String, u16), Problem> {
    let host = host.ok_or(Problem::NoHost)?;
    if host.starts_with('/') {
        return Err(Problem::Host);
    }
    if *scheme == AMQPScheme::AMQPS && host.contains('%') {
        return Err(Problem::ZoneWithTls);
    }
    Ok((host, port.unwrap_or_else(|| scheme.default_port())))
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
