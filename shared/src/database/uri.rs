//! Parses the address of PostgreSQL in the forms of libpq and SQLAlchemy.

use std::collections::BTreeMap;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::form_urlencoded::Serializer;

use crate::settings::uri::{HostAndPort, Problem, Uri, bare_ipv6, host_and_port, port};

/// The required kind of server (`target_session_attrs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Target {
    #[default]
    Any,
    /// Not in recovery.
    Primary,
    /// Accepts writes.
    ReadWrite,
}

/// A parsed address.
pub(super) struct Address {
    pub(super) connect: PgConnectOptions,
    pub(super) target: Target,
    /// Ignored parameters.
    pub(super) ignored: Vec<&'static str>,
}

/// The supported parameters, for the error about an unknown one.
const KNOWN: &str = "those of libpq, such as `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`, \
                     `port`, `user`, `password`, `dbname`, `options` and `target_session_attrs`";

/// Parameters of libpq and of SQLAlchemy's drivers that are ignored: the programs use values of their own,
/// or the parameters have no effect on them.
const PASSED_OVER: [&str; 19] = [
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslcompression",
    "sslsni",
    "load_balance_hosts",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "min_protocol_version",
    "max_protocol_version",
    "prepared_statement_cache_size",
    "async_fallback",
];

/// Parameters of libpq that are not supported and that it could be unsafe to ignore.
const UNSUPPORTED: [&str; 17] = [
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslcertmode",
    "sslkeylogfile",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "requiressl",
    "requirepeer",
    "require_auth",
    "replication",
    "service",
    "servicefile",
    "passfile",
    "scram_client_key",
    "scram_server_key",
];

/// Supported parameters, and the names that sqlx has for them.
const FIELDS: [(&str, &str); 15] = [
    ("user", "user"),
    ("password", "password"),
    ("dbname", "dbname"),
    ("sslmode", "sslmode"),
    ("ssl-mode", "sslmode"),
    // asyncpg's name.
    ("ssl", "sslmode"),
    ("sslrootcert", "sslrootcert"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("sslcert", "sslcert"),
    ("ssl-cert", "sslcert"),
    ("sslkey", "sslkey"),
    ("ssl-key", "sslkey"),
    ("target_session_attrs", "target_session_attrs"),
    ("statement-cache-capacity", "statement-cache-capacity"),
];

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// The values of an address by sqlx's names.
#[derive(Default)]
struct Fields {
    values: BTreeMap<&'static str, String>,
    /// Options of the server's command line, in order.
    options: Vec<(String, String)>,
    ignored: Vec<&'static str>,
}

/// Parses an address.
pub(super) fn parse(text: &str) -> Result<Address, Problem> {
    let uri = Uri::parse(text)?;
    // SQLAlchemy has its driver in the scheme: postgresql+psycopg2.
    let scheme = uri.scheme.split_once('+').map_or(&*uri.scheme, |(dialect, _driver)| dialect);
    if scheme != "postgresql" && scheme != "postgres" {
        return Err(Problem::Scheme);
    }
    let Ok([(host, port)]) = <[HostAndPort; 1]>::try_from(uri.hosts) else {
        return Err(Problem::SeveralHosts);
    };
    let mut fields = Fields::default();
    let written = [
        ("user", uri.user),
        ("password", uri.password),
        ("host", host),
        ("port", port.map(|port| port.to_string())),
        ("dbname", uri.path.filter(|path| !path.is_empty())),
    ];
    for (name, value) in written {
        if let Some(value) = value {
            fields.set(name, value)?;
        }
    }
    for (place, (name, value)) in uri.query.into_iter().enumerate() {
        fields.parameter(place + 1, &name, value)?;
    }
    fields.check_tls()?;
    let target = fields.target()?;
    let connect = fields.connect()?;
    Ok(Address { connect, target, ignored: fields.ignored })
}

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn set(&mut self, name: &'static str, value: String) -> Result<(), Problem> {
        match self.values.insert(name, value) {
            Some(before) if self.get(name) != Some(&before) => Err(Problem::Twice(name)),
            Some(_) | None => Ok(()),
        }
    }

    fn parameter(&mut self, place: usize, name: &str, value: String) -> Result<(), Problem> {
        if let Some((_, field)) = FIELDS.iter().find(|(written, _)| *written == name) {
            return self.set(field, value);
        }
        if let Some(known) = PASSED_OVER.iter().find(|known| **known == name) {
            self.ignored.push(known);
            return Ok(());
        }
        if let Some(known) = UNSUPPORTED.iter().find(|known| **known == name) {
            return Err(Problem::Parameter(known, "is not supported"));
        }
        match name {
            "host" => self.host(&value),
            "hostaddr" => match bare_ipv6(&value) {
                Some(address) => self.set("host", address),
                None if value.parse::<std::net::Ipv4Addr>().is_ok() => self.set("host", value),
                None => Err(Problem::Parameter("hostaddr", "is not an IP address")),
            },
            "port" if value.contains(',') => Err(Problem::SeveralHosts),
            "port" => self.set("port", port(&value)?.to_string()),
            "options" => {
                self.options.push((name.to_owned(), value));
                Ok(())
            }
            _ if name.starts_with("options[") && name.ends_with(']') => {
                self.options.push((name.to_owned(), value));
                Ok(())
            }
            "channel_binding" => match &*value {
                "disable" | "prefer" => Ok(()),
                _ => Err(Problem::Parameter("channel_binding", "is supported as `prefer` only")),
            },
            "gssencmode" => match &*value {
                "disable" | "prefer" => Ok(()),
                _ => Err(Problem::Parameter("gssencmode", "is supported as `disable` only")),
            },
            _ => Err(Problem::UnknownParameter { place, known: KNOWN }),
        }
    }

    /// The folder of a socket, a host name, an IP address, or, as in SQLAlchemy, one of the latter with a port.
    fn host(&mut self, value: &str) -> Result<(), Problem> {
        if value.starts_with('/') {
            return self.set("host", value.to_owned());
        }
        if let Some(address) = bare_ipv6(value) {
            return self.set("host", address);
        }
        if value.contains(',') {
            return Err(Problem::SeveralHosts);
        }
        let (host, port) = host_and_port(value)?;
        if let Some(host) = host {
            // If the port is given twice, both must be equal.
            self.set("host", host)?;
        }
        match port {
            Some(port) => self.set("port", port.to_string()),
            None => Ok(()),
        }
    }

    /// Makes TLS as strict as libpq would with the same parameters.
    fn check_tls(&mut self) -> Result<(), Problem> {
        let mode = self.get("sslmode").unwrap_or_default();
        if self.values.contains_key("sslmode") && !SSL_MODES.contains(&mode) {
            let expected = "is none of disable, allow, prefer, require, verify-ca, verify-full";
            return Err(Problem::Parameter("sslmode", expected));
        }
        match (self.get("sslrootcert"), mode) {
            // The system's authorities are the default.
            (Some("system"), "" | "verify-full") => {
                self.values.remove("sslrootcert");
                drop(self.values.insert("sslmode", "verify-full".to_owned()));
            }
            (Some("system"), _) => {
                let expected = "must be verify-full where `sslrootcert` is `system`";
                return Err(Problem::Parameter("sslmode", expected));
            }
            // If an authority is given, libpq verifies the server's certificate.
            (Some(_), "require") => {
                drop(self.values.insert("sslmode", "verify-ca".to_owned()));
            }
            (Some(_) | None, _) => {}
        }
        Ok(())
    }

    fn target(&mut self) -> Result<Target, Problem> {
        const NAME: &str = "target_session_attrs";
        match self.values.remove(NAME).as_deref() {
            // With a single server there is nothing to prefer.
            None | Some("any" | "prefer-standby") => Ok(Target::Any),
            Some("primary") => Ok(Target::Primary),
            Some("read-write") => Ok(Target::ReadWrite),
            Some("standby" | "read-only") => {
                Err(Problem::Parameter(NAME, "must name a server that takes writes"))
            }
            Some(_) => Err(Problem::Parameter(NAME, "is none of any, primary, read-write")),
        }
    }

    /// Uses sqlx's own parser, because only that reads a `.pgpass`. Every part is passed as a parameter: in
    /// its usual position before the path, sqlx reads some of them differently.
    fn connect(&self) -> Result<PgConnectOptions, Problem> {
        const START: &str = "postgresql:///?";
        let mut query = Serializer::for_suffix(START.to_owned(), START.len());
        query.extend_pairs(&self.values).extend_pairs(self.options.iter().map(|(n, v)| (n, v)));
        let options: PgConnectOptions = query.finish().parse().map_err(|_| Problem::Misread)?;
        let folder = options.get_socket().map(|folder| folder.to_string_lossy());
        let host = folder.as_deref().unwrap_or(options.get_host());
        let port = options.get_port().to_string();
        for (field, read) in [
            ("host", host),
            ("port", &port),
            ("user", options.get_username()),
            ("dbname", options.get_database().unwrap_or_default()),
        ] {
            if self.get(field).is_some_and(|written| written != read) {
                return Err(Problem::Misread);
            }
        }
        // Sockets have no TLS; libpq does not request it either.
        let is_socket = host.starts_with('/');
        Ok(if is_socket { options.ssl_mode(PgSslMode::Disable) } else { options })
    }
}
