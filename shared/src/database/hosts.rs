//! The servers that an address of PostgreSQL names: before the path, by `host`, `hostaddr` and `port`.

use std::net::Ipv4Addr;

use crate::settings::uri::{HostAndPort, Problem, bare_ipv6, host_and_port, port};

/// The hosts and ports as they are written.
#[derive(Default)]
pub(super) struct Hosts {
    /// Before the path.
    authority: Vec<HostAndPort>,
    /// By `host`.
    parameters: Vec<HostAndPort>,
    /// By `hostaddr`.
    addresses: Vec<HostAndPort>,
    /// By `port`.
    ports: Vec<u16>,
}

impl Hosts {
    pub(super) fn new(authority: Vec<HostAndPort>) -> Self {
        Self { authority, ..Self::default() }
    }

    /// Adds the hosts of a parameter: folders of sockets, host names, IP addresses, or, as in SQLAlchemy, one
    /// of the latter with a port. As in SQLAlchemy, it may be repeated instead of separated by commas.
    pub(super) fn host(&mut self, value: &str) -> Result<(), Problem> {
        for host in value.split(',') {
            let server = if host.starts_with('/') {
                (Some(host.to_owned()), None)
            } else if let Some(address) = bare_ipv6(host) {
                (Some(address), None)
            } else {
                host_and_port(host)?
            };
            self.parameters.push(server);
        }
        Ok(())
    }

    /// Adds the IP addresses of a parameter.
    pub(super) fn address(&mut self, value: &str) -> Result<(), Problem> {
        for address in value.split(',') {
            let is_ipv4 = || address.parse::<Ipv4Addr>().is_ok();
            let address = bare_ipv6(address).or_else(|| is_ipv4().then(|| address.to_owned()));
            let problem = Problem::Parameter("hostaddr", "is not an IP address");
            self.addresses.push((Some(address.ok_or(problem)?), None));
        }
        Ok(())
    }

    /// Adds the ports of a parameter.
    pub(super) fn port(&mut self, value: &str) -> Result<(), Problem> {
        let ports = value.split(',').map(port).collect::<Result<Vec<u16>, _>>()?;
        if !self.ports.is_empty() && self.ports != ports {
            return Err(Problem::Twice("port"));
        }
        self.ports = ports;
        Ok(())
    }

    /// All servers, at least one. What is written twice must be equal.
    pub(super) fn merged(self) -> Result<Vec<HostAndPort>, Problem> {
        let servers = both(both(self.authority, self.parameters)?, self.addresses)?;
        if servers.len() > 1 && servers.iter().any(|(host, _)| host.is_none()) {
            return Err(Problem::NoHost);
        }
        let ports = match &self.ports[..] {
            [] => return Ok(servers),
            [one] => vec![(None, Some(*one)); servers.len()],
            several if several.len() == servers.len() => {
                several.iter().map(|port| (None, Some(*port))).collect()
            }
            _ => return Err(Problem::Parameter("port", "has not one port, nor one for each host")),
        };
        both(servers, ports)
    }
}

/// The servers of two places, either of which may be empty or have what the other lacks.
fn both(one: Vec<HostAndPort>, other: Vec<HostAndPort>) -> Result<Vec<HostAndPort>, Problem> {
    if other.is_empty() {
        return Ok(one);
    }
    let one = match &one[..] {
        // Only a port, if anything.
        [(None, port)] => vec![(None, *port); other.len()],
        _ => one,
    };
    if one.len() != other.len() {
        return Err(Problem::Twice("host"));
    }
    let merge = |(one, other): (HostAndPort, HostAndPort)| {
        Ok((same("host", one.0, other.0)?, same("port", one.1, other.1)?))
    };
    one.into_iter().zip(other).map(merge).collect()
}

/// The value that is written in one place, or in two and equal.
fn same<T: PartialEq>(
    name: &'static str,
    one: Option<T>,
    other: Option<T>,
) -> Result<Option<T>, Problem> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(Problem::Twice(name)),
        (Some(value), _) | (None, Some(value)) => Ok(Some(value)),
        (None, None) => Ok(None),
    }
}
