//! Where the programs listen.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};
use deploy::{
    setting,
    settings::{ADMIN, BIND},
};

const DEFAULT: &str = "127.0.0.1:8080";
const LIMIT: Duration = Duration::from_secs(2);

/// What one program binds.
pub(super) struct Address(SocketAddr);

impl Address {
    /// One for each gateway.
    pub(super) fn of_gateways(gateways: u16) -> anyhow::Result<Vec<Self>> {
        let first = setting(BIND).unwrap_or_else(|| DEFAULT.to_owned());
        Self::consecutive(BIND, &first, gateways)
    }

    /// One for the health and the metrics of each process, if they are served: processes can't share one.
    pub(super) fn of_admins(processes: u16) -> anyhow::Result<Vec<Self>> {
        setting(ADMIN).map_or(Ok(Vec::new()), |first| Self::consecutive(ADMIN, &first, processes))
    }

    /// On consecutive ports, all of them free, so that an occupied port is reported before anything has
    /// started.
    fn consecutive(name: &str, first: &str, count: u16) -> anyhow::Result<Vec<Self>> {
        let first_address = parse(name, first)?;
        (0..count)
            .map(|number| {
                let port = first_address.port().checked_add(number);
                let port = port.with_context(|| format!("{name}={first}: no {count} ports"))?;
                let address = SocketAddr::new(first_address.ip(), port);
                match TcpListener::bind(address) {
                    Ok(_listener) => Ok(Self(address)),
                    Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
                        "the address {address} is in use by another program, perhaps by another \
                         `cargo run`: stop that one, or choose another address and another \
                         folder:\n\n    {name}={} cargo run -- --data FOLDER",
                        SocketAddr::new(address.ip(), port.saturating_add(100))
                    ),
                    Err(error) => Err(error).with_context(|| format!("{name}={address}")),
                }
            })
            .collect()
    }

    /// The beginning of the URLs that a client on this machine uses.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.reachable())
    }

    /// Whether the gateway there is ready; if not, its answer, if any.
    pub(super) fn readiness(&self) -> Result<(), Option<String>> {
        match self.ask("GET /readyz", "\r\n") {
            // 200 alone may mean that a server is still missing.
            Ok(answer) if answer.contains(r#""status":"ready""#) => Ok(()),
            Ok(answer) => Err(answer.lines().last().map(str::to_owned)),
            Err(_) => Err(None),
        }
    }

    /// The beginning of the answer to a JSON body.
    pub(super) fn post(&self, path: &str, token: &str, body: &str) -> std::io::Result<String> {
        let rest = format!(
            "Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.ask(&format!("POST {path}"), &rest)
    }

    /// The beginning of the answer; `rest` is what follows the common headers, with the empty line after the last.
    fn ask(&self, method_and_path: &str, rest: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.reachable(), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let host = self.reachable();
        write!(
            stream,
            "{method_and_path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{rest}"
        )?;
        let mut answer = Vec::new();
        stream.take(4_096).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// A gateway that listens on all addresses is reached on the loopback.
    fn reachable(&self) -> SocketAddr {
        let ip = match self.0.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        SocketAddr::new(ip, self.0.port())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

fn parse(name: &str, text: &str) -> anyhow::Result<SocketAddr> {
    let address: Option<SocketAddr> = text.parse().ok();
    let address = address.filter(|address| address.port() != 0);
    address.with_context(|| format!("{name} is `{text}`, but must be like `{DEFAULT}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_with_a_port_will_do() {
        assert!(parse(BIND, "0.0.0.0:9000").is_ok() && parse(BIND, "[::1]:9000").is_ok());
        for wrong in ["", "9000", "127.0.0.1", "127.0.0.1:0", "localhost:8080"] {
            assert!(parse(BIND, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_addresses_are_reached_on_the_loopback() {
        assert_eq!(Address(parse(BIND, "0.0.0.0:9000").unwrap()).url(), "http://127.0.0.1:9000");
        assert_eq!(Address(parse(BIND, "[::]:9000").unwrap()).url(), "http://[::1]:9000");
        assert_eq!(Address(parse(BIND, "127.0.0.2:9000").unwrap()).url(), "http://127.0.0.2:9000");
    }
}
