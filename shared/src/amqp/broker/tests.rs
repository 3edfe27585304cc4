use lapin::uri::{AMQPAuthority, AMQPQueryString, SASLMechanism};

use super::{address::HEARTBEAT, *};

fn broker(uri: &str) -> Result<AMQPUri, SettingsError> {
    let settings = Settings::new([(NAME.to_owned(), uri.to_owned())]);
    Broker::from_settings(&settings).map(|broker| broker.uris[0].clone())
}

/// The hosts, as they are reported.
fn hosts(uri: &str) -> Result<Vec<String>, SettingsError> {
    let settings = Settings::new([(NAME.to_owned(), uri.to_owned())]);
    let broker = Broker::from_settings(&settings)?;
    Ok((0..broker.uris.len()).map(|host| broker.hosts.name(host).to_owned()).collect())
}

#[test]
fn several_hosts_have_all_else_in_common() {
    let uri = "amqps://u:p@a:1,[2001:db8::1],c.example.org/v?heartbeat=9";
    assert_eq!(hosts(uri).expect(uri), ["a:1", "[2001:db8::1]:5671", "c.example.org:5671"]);
    let settings = Settings::new([(NAME.to_owned(), uri.to_owned())]);
    for one in &*Broker::from_settings(&settings).expect(uri).uris {
        assert_eq!((one.vhost.as_str(), one.query.heartbeat), ("v", Some(9)));
        assert_eq!(one.authority.userinfo.password, "p");
    }
}

/// Host, port, user, password and virtual host.
fn parts(uri: &str) -> (String, u16, String, String, String) {
    let AMQPUri { authority: AMQPAuthority { userinfo, host, port }, vhost, .. } =
        broker(uri).expect(uri);
    (host, port, userinfo.username, userinfo.password, vhost)
}

#[test]
fn every_part_is_the_one_that_is_written() {
    for (uri, host, port, user, password, vhost) in [
        ("amqp://127.0.0.1", "127.0.0.1", 5672, "guest", "guest", "/"),
        ("amqps://mq.example.org", "mq.example.org", 5671, "guest", "guest", "/"),
        ("AMQPS://MQ.example.org.:1/v", "MQ.example.org.", 1, "guest", "guest", "v"),
        ("amqp://u:p@[::1]:5673/v", "::1", 5673, "u", "p", "v"),
        ("amqps://u:p@[2001:db8::1]", "2001:db8::1", 5671, "u", "p", "/"),
        ("amqp://u:p@[fe80::1%25eth0]/v", "fe80::1%eth0", 5672, "u", "p", "v"),
        ("amqp://u%40x:p%3A%2F%25%C3%BC@h%6Fst/%2f", "host", 5672, "u@x", "p:/%ü", "/"),
        ("amqp://u:p:q@host/a%2Fb%20c", "host", 5672, "u", "p:q", "a/b c"),
        ("amqp://u:p@host//", "host", 5672, "u", "p", "/"),
        ("amqp://u:p@host:/v?heartbeat=9", "host", 5672, "u", "p", "v"),
        ("amqp://u:p@host?heartbeat=9", "host", 5672, "u", "p", "/"),
    ] {
        let expected = (host.into(), port, user.into(), password.into(), vhost.into());
        assert_eq!(parts(uri), expected, "{uri}");
    }
}

#[test]
fn parameters_are_heeded() {
    assert_eq!(broker("amqp://host").expect("read").query.heartbeat, Some(HEARTBEAT));
    let uri = "amqp://host?heartbeat=60&frame_max=8192&channel_max=64&connection_timeout=1500\
               &auth_mechanism=external";
    let expected = AMQPQueryString {
        heartbeat: Some(60),
        frame_max: Some(8192),
        channel_max: Some(64),
        connection_timeout: Some(1500),
        auth_mechanism: Some(SASLMechanism::External),
    };
    assert_eq!(broker(uri).expect("read").query, expected);
}

#[test]
fn what_can_not_be_carried_is_refused_without_showing_a_secret() {
    for (uri, says) in [
        ("http://u:hush@host", "must be `amqp://user:password@host:port/vhost`"),
        ("hush", "must be `amqp://"),
        ("amqp://u:hush@/v", "names no host"),
        ("amqp:///v", "names no host"),
        ("amqp://u:hush@:5672/v", "names no host"),
        ("amqp://u:hush@a:5672,,b:5672/v", "names no host"),
        ("amqp://u:hush@a,b:x/v", "the port is not a number from 1 to 65535"),
        ("amqps://u:hush@a,[fe80::1%25eth0]/v", "TLS can't check"),
        ("amqp://u:hush@::1/v", "in brackets"),
        ("amqp://u:hush@[::1/v", "in brackets"),
        ("amqp://u:hush@host:port/v", "the port is not a number from 1 to 65535"),
        ("amqp://u:hush@host:99999/v", "the port is not a number from 1 to 65535"),
        ("amqp://u:hush@host:0", "the port is not a number from 1 to 65535"),
        ("amqp://u:hush@%2Frun%2Fmq/v", "the host is not a name"),
        ("amqp://u:hush@127.1/v", "the host is not a name"),
        ("amqp://u:12/hush@host/v", "`%2F`"),
        ("amqp://u:12#hush@host/v", "`%23`"),
        ("amqp://u:12?hush@host/v", "`%3F`"),
        ("amqp://u:hush@host/", "the virtual host is empty"),
        ("amqp://u:hush@host/?heartbeat=5", "the virtual host is empty"),
        ("amqps://u:hush@[fe80::1%25eth0]/v", "TLS can't check"),
        ("amqp://u:p@host/v?hush=hush", "parameter 1 after the `?` is none"),
        ("amqps://u:p@host/v?heartbeat=5&password=hush", "parameter 2 after the `?` is none"),
        ("amqps://u:hush@host/v?verify=verify_peer", "`heartbeat`, `frame_max`"),
        ("amqp://u:hush@host/v?heartbeat=-1", "`heartbeat` is not a whole number"),
        ("amqp://u:hush@host/v?heartbeat=5&heartbeat=5", "`heartbeat` is named twice"),
        ("amqp://u:hush@host/v?auth_mechanism=hush", "`auth_mechanism` is none of plain"),
    ] {
        let error = broker(uri).expect_err(uri).to_string();
        assert!(error.starts_with("SDB_AMQP_URI is `…`, but must be"), "{uri}: {error}");
        assert!(error.contains(says) && !error.contains("hush"), "{uri}: {error}");
    }
}
