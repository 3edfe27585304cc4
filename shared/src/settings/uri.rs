//! Parses the addresses of RabbitMQ and PostgreSQL.
//!
//! The clients' own parsers read some addresses differently from how they are written: one takes
//! `localhost` for an IPv6 address, another resolves an IPv6 address with its brackets. Credentials must
//! not be sent to an unintended host. So each part is parsed here and passed to the client separately, and
//! what can't be represented is refused.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

/// The parts of an address, decoded.
pub(crate) struct Uri {
    /// In lower case.
    pub(crate) scheme: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// The hosts with their ports, separated by commas; one without either if none is written.
    pub(crate) hosts: Vec<HostAndPort>,
    /// The text after the first slash; none without a slash.
    pub(crate) path: Option<String>,
    /// The parameters after the question mark, in order.
    pub(crate) query: Vec<(String, String)>,
}

/// A host in the form for resolvers, without the brackets of an IPv6 address, and its port. None if it is
/// absent.
pub(crate) type HostAndPort = (Option<String>, Option<u16>);

/// Why an address is refused. No message shows any part of the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("it does not begin with one of these")]
    Scheme,
    #[error("it has a control character, such as a tab or a line break")]
    ControlCharacter,
    #[error(
        "in a user name, a password, a path or a parameter, write `/` as `%2F`, `?` as `%3F`, `#` as \
         `%23` and `@` as `%40`"
    )]
    Reserved,
    #[error("it has percent-encoded bytes that are not UTF-8")]
    NotUtf8,
    #[error("it names no host")]
    NoHost,
    #[error("write an IPv6 address in brackets, such as `[2001:db8::1]` or `[fe80::1%25eth0]`")]
    Ipv6,
    #[error(
        "the host is not a name of ASCII letters, digits, `-`, `_` and `.`, nor an IPv4 address, nor an \
         IPv6 address in brackets"
    )]
    Host,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error(
        "the virtual host is empty: leave the last `/` out for the virtual host `/`, or write `/%2F`"
    )]
    EmptyVhost,
    #[error("TLS can't check a host with an IPv6 zone")]
    ZoneWithTls,
    #[error("`{0}` is named twice with different values")]
    Twice(&'static str),
    #[error("`{0}` {1}")]
    Parameter(&'static str, &'static str),
    #[error("parameter {place} after the `?` is none of the supported ones: {known}")]
    UnknownParameter {
        /// Its position, because its name may be part of a password that was not encoded.
        place: usize,
        known: &'static str,
    },
    #[error("the database client reads it differently from how it is written")]
    Misread,
}

impl Uri {
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        // URL parsers drop some of them, and so change the address.
        if text.chars().any(char::is_control) {
            return Err(Problem::ControlCharacter);
        }
        let (scheme, rest) = text.split_once("://").ok_or(Problem::Scheme)?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // Probably the rest of a password: the text before it would be taken for the host.
        if rest.contains(['@', '#']) {
            return Err(Problem::Reserved);
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, authority),
        };
        let (user, password) = match credentials.map(|both| both.split_once(':').ok_or(both)) {
            Some(Ok((user, password))) => (Some(user), Some(password)),
            Some(Err(user)) => (Some(user), None),
            None => (None, None),
        };
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user: user.filter(|user| !user.is_empty()).map(decoded).transpose()?,
            password: password.map(decoded).transpose()?,
            hosts: host.split(',').map(host_and_port).collect::<Result<_, _>>()?,
            path: path.strip_prefix('/').map(decoded).transpose()?,
            query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        })
    }
}

/// Parses `host` or `host:port`. The host may be percent-encoded, and may be a folder, which begins with a
/// slash.
pub(crate) fn host_and_port(text: &str) -> Result<HostAndPort, Problem> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(Problem::Ipv6)?;
            let port = match port.strip_prefix(':') {
                Some(port) => port,
                None if port.is_empty() => "",
                None => return Err(Problem::Ipv6),
            };
            (Some(ipv6(address)?), port)
        }
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            if port.contains(':') {
                return Err(Problem::Ipv6);
            }
            let host = decoded(host)?;
            if !host.is_empty() && !host.starts_with('/') {
                check_name(&host)?;
            }
            (Some(host).filter(|host| !host.is_empty()), port)
        }
    };
    Ok((host, if port.is_empty() { None } else { Some(self::port(port)?) }))
}

/// The text between brackets: an IPv6 address, optionally with a zone (RFC 6874); returned in the form for
/// resolvers.
fn ipv6(text: &str) -> Result<String, Problem> {
    let (address, zone) = match text.split_once("%25") {
        Some((address, zone)) => (address, Some(decoded(zone)?)),
        None => (text, None),
    };
    let address: Ipv6Addr = address.parse().map_err(|_| Problem::Ipv6)?;
    match zone {
        None => Ok(address.to_string()),
        Some(zone) if is_plain(&zone) => Ok(format!("{address}%{zone}")),
        Some(_) => Err(Problem::Ipv6),
    }
}

/// An IPv6 address without brackets, where nothing else can follow.
pub(crate) fn bare_ipv6(text: &str) -> Option<String> {
    let (address, zone) = text.split_once('%').unwrap_or((text, ""));
    let address: Ipv6Addr = address.parse().ok()?;
    match zone {
        "" => Some(address.to_string()),
        zone => is_plain(zone).then(|| format!("{address}%{zone}")),
    }
}

/// Refuses hosts that a resolver reads differently from how they look: `127.1` and `010.0.0.1` are
/// addresses to it, and not the apparent ones.
fn check_name(host: &str) -> Result<(), Problem> {
    let named = host.strip_suffix('.').unwrap_or(host);
    if named.split('.').any(|label| !is_plain(label)) {
        return Err(Problem::Host);
    }
    let last = named.rsplit('.').next().unwrap_or(named);
    let is_number = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && host.parse::<Ipv4Addr>().is_err() {
        return Err(Problem::Host);
    }
    Ok(())
}

fn is_plain(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !label.is_empty() && label.bytes().all(plain)
}

/// A port number. `parse` alone would accept `+5432`.
pub(crate) fn port(text: &str) -> Result<u16, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0).ok_or(Problem::Port)
}

fn decoded(text: &str) -> Result<String, Problem> {
    percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| Problem::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> Result<Vec<HostAndPort>, Problem> {
        Uri::parse(&format!("x://user:hush@{text}/path")).map(|uri| uri.hosts)
    }

    fn host(text: &str) -> Result<HostAndPort, Problem> {
        hosts(text).map(|mut hosts| hosts.remove(0))
    }

    #[test]
    fn the_host_is_the_one_that_is_written() {
        for (written, host_read, port) in [
            ("127.0.0.1", "127.0.0.1", None),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("[::1]", "::1", None),
            ("[::1]:5432", "::1", Some(5432)),
            ("[2001:DB8:0::1]:65535", "2001:db8::1", Some(65535)),
            ("[::ffff:10.0.0.1]", "::ffff:10.0.0.1", None),
            ("[fe80::1%25eth0]:5672", "fe80::1%eth0", Some(5672)),
            ("db", "db", None),
            ("db:", "db", None),
            ("DB.Example.org:5432", "DB.Example.org", Some(5432)),
            ("db.example.org.", "db.example.org.", None),
            ("my_db-1", "my_db-1", None),
            ("1db.2x", "1db.2x", None),
            ("d%62", "db", None),
            ("%2Fvar%2Frun", "/var/run", None),
        ] {
            assert_eq!(host(written), Ok((Some(host_read.to_owned()), port)), "{written}");
        }
        assert_eq!(host(""), Ok((None, None)));
        assert_eq!(host(":5432"), Ok((None, Some(5432))));
    }

    #[test]
    fn several_hosts_are_separated_by_commas() {
        let read = hosts("[::1]:1,b,10.0.0.1:3").expect("three hosts");
        let named = |host: &str, port| (Some(host.to_owned()), port);
        assert_eq!(read, [named("::1", Some(1)), named("b", None), named("10.0.0.1", Some(3))]);
        assert_eq!(hosts("a,,b").expect("an empty one")[1], (None, None));
    }

    #[test]
    fn a_host_that_can_be_read_in_two_ways_is_refused() {
        for (written, problem) in [
            ("a,d b", Problem::Host),
            ("a,[::1", Problem::Ipv6),
            ("a%2Cb", Problem::Host),
            ("::1", Problem::Ipv6),
            ("2001:db8::1:5432", Problem::Ipv6),
            ("[::1", Problem::Ipv6),
            ("[::1]5432", Problem::Ipv6),
            ("[db]", Problem::Ipv6),
            ("[127.0.0.1]", Problem::Ipv6),
            ("[fe80::1%eth0]", Problem::Ipv6),
            ("[fe80::1%25]", Problem::Ipv6),
            ("[fe80::1%25e%2F0]", Problem::Ipv6),
            ("[::1]:0", Problem::Port),
            ("db:0", Problem::Port),
            ("db:65536", Problem::Port),
            ("db:+5432", Problem::Port),
            ("db:-1", Problem::Port),
            ("db:port", Problem::Port),
            ("db:5432x", Problem::Port),
            ("127.1", Problem::Host),
            ("1", Problem::Host),
            ("0x7f000001", Problem::Host),
            ("010.0.0.1", Problem::Host),
            ("256.0.0.1", Problem::Host),
            ("127.0.0.1.", Problem::Host),
            ("d b", Problem::Host),
            ("d%20b", Problem::Host),
            ("db..example", Problem::Host),
            (".", Problem::Host),
            ("%5B::1%5D", Problem::Ipv6),
            ("%5Bdb%5D", Problem::Host),
            ("dät", Problem::Host),
            ("db\\x", Problem::Host),
            ("%FF", Problem::NotUtf8),
        ] {
            assert_eq!(host(written), Err(problem), "{written}");
        }
    }

    #[test]
    fn credentials_are_read_whole_or_refused() {
        let read = |text: &str| {
            Uri::parse(text).map(|mut uri| (uri.user, uri.password, uri.hosts.remove(0).0))
        };
        let some = |text: &str| Some(text.to_owned());
        for (written, user, password) in [
            ("x://host", None, None),
            ("x://@host", None, None),
            ("x://u@host", some("u"), None),
            ("x://:p@host", None, some("p")),
            ("x://u:@host", some("u"), some("")),
            ("x://u:p:q@host", some("u"), some("p:q")),
            ("x://u%40corp:p%3A%2F%3F%23%40%25@host", some("u@corp"), some("p:/?#@%")),
            ("x://u@corp:p@q@host", some("u@corp"), some("p@q")),
            ("x://u:a+b c%zz$&'()*!,;=~ü@host", some("u"), some("a+b c%zz$&'()*!,;=~ü")),
        ] {
            assert_eq!(read(written), Ok((user, password, some("host"))), "{written}");
        }
        // The beginning of the password would be a port, and the user the host.
        for (written, problem) in [
            ("x://u:12/3@host/path", Problem::Reserved),
            ("x://u:12?3@host/path", Problem::Reserved),
            ("x://u:12#3@host/path", Problem::Reserved),
            ("x://u:12#3", Problem::Reserved),
            ("x://host/path#part", Problem::Reserved),
            ("x://host/path@other", Problem::Reserved),
            ("x://host/?user=a@b", Problem::Reserved),
            ("x://u:p\t@host", Problem::ControlCharacter),
            ("x://u:p\n@host", Problem::ControlCharacter),
            ("x://u:%FF@host", Problem::NotUtf8),
            ("u:p@host", Problem::Scheme),
            ("x:/host", Problem::Scheme),
        ] {
            assert_eq!(read(written), Err(problem), "{written}");
        }
    }

    #[test]
    fn paths_and_parameters_are_decoded() {
        let read = |text: &str| Uri::parse(text).map(|uri| (uri.path, uri.query));
        let pairs = |all: &[(&str, &str)]| {
            all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(read("x://h"), Ok((None, vec![])));
        assert_eq!(read("x://h/"), Ok((Some(String::new()), vec![])));
        assert_eq!(read("x://h/%2f"), Ok((Some("/".to_owned()), vec![])));
        assert_eq!(read("x://h//a%20b"), Ok((Some("/a b".to_owned()), vec![])));
        assert_eq!(
            read("x://h/p?a=1%262&b=&c&d=e=f+g%40"),
            Ok((
                Some("p".to_owned()),
                pairs(&[("a", "1&2"), ("b", ""), ("c", ""), ("d", "e=f g@")])
            ))
        );
        assert_eq!(read("x://h?a=/x"), Ok((None, pairs(&[("a", "/x")]))));
    }
}
