use sqlx::postgres::PgSslMode;

use super::*;

fn options(uri: &str) -> Result<ConnectOptions, SettingsError> {
    let settings = Settings::new([(NAME.to_owned(), uri.to_owned())]);
    connect_options(&settings, "test")
}

fn connect(uri: &str) -> PgConnectOptions {
    options(uri).expect(uri).unchecked()
}

/// The hosts and ports of an address.
fn servers(uri: &str) -> Vec<(String, u16)> {
    let address = uri::parse(uri).expect(uri);
    let servers = address.connect.iter();
    servers.map(|server| (server.get_host().to_owned(), server.get_port())).collect()
}

#[test]
fn the_python_dashboards_uris_are_read() {
    for uri in [
        "postgresql://u:p@db:5433/sd",
        "postgres://u:p@db:5433/sd?sslmode=require",
        "postgresql+psycopg2://u:p@db:5433/sd",
        "postgresql+psycopg://u:p@db:5433/sd?connect_timeout=3&application_name=x",
        "postgresql+asyncpg://u:p@db:5433/sd?ssl=require&prepared_statement_cache_size=0",
        "postgresql+pg8000://u:p@db:5433/sd",
        "POSTGRESQL://u:p@db:5433/sd",
        "postgresql://u:p@/sd?host=db&port=5433",
        "postgresql://u:p@/sd?host=db:5433",
        "postgresql://u:p@:5433/sd?host=db",
        "postgresql:///?host=db&port=5433&user=u&password=p&dbname=sd",
        "postgresql://u:p@db:5433/sd?host=db&port=5433&user=u",
        "postgresql://u:p@d%62:5433/s%64",
    ] {
        let options = connect(uri);
        assert_eq!((options.get_host(), options.get_port()), ("db", 5433), "{uri}");
        let names = (options.get_username(), options.get_database(), options.get_socket());
        assert_eq!(names, ("u", Some("sd"), None), "{uri}");
    }
    let other = Settings::new([(OTHER_NAME.to_owned(), "postgresql://u@other/sd".to_owned())]);
    let other = connect_options(&other, "test").expect("other name");
    assert_eq!(
        other.address(),
        ("other".to_owned(), other.unchecked().get_port(), "sd".to_owned())
    );
}

#[test]
fn several_servers_are_named_as_for_libpq_or_sqlalchemy() {
    let named = |host: &str, port| (host.to_owned(), port);
    let (default, pair) =
        (connect("postgresql://u@a/sd").get_port(), [named("a", 1), named("::1", 2)]);
    for uri in [
        "postgresql://u:p@a:1,[::1]:2/sd",
        "postgresql://u:p@/sd?host=a,::1&port=1,2",
        "postgresql://u:p@/sd?host=a:1,[::1]:2",
        "postgresql+psycopg2://u:p@/sd?host=a:1&host=[::1]:2",
        "postgresql://u:p@a,[::1]/sd?port=1,2&target_session_attrs=read-write",
        "postgresql://u:p@a:1,[::1]:2/sd?host=a,::1&target_session_attrs=primary",
    ] {
        assert_eq!(servers(uri), pair, "{uri}");
        let address = uri::parse(uri).expect(uri);
        assert_eq!(address.target, Target::ReadWrite, "{uri}");
        assert!(address.connect.iter().all(|server| server.get_database() == Some("sd")));
    }
    assert_eq!(servers("postgresql://a:1,b/sd"), [named("a", 1), named("b", default)]);
    assert_eq!(servers("postgresql://a,b/sd?port=7"), [named("a", 7), named("b", 7)]);
    assert_eq!(servers("postgresql:///sd?host=a,a&port=1,2"), [named("a", 1), named("a", 2)]);
    let sockets = uri::parse("postgresql:///sd?host=/run/a,/run/b").expect("two folders").connect;
    let folders: Vec<_> = sockets.iter().filter_map(PgConnectOptions::get_socket).collect();
    assert_eq!(folders, [std::path::Path::new("/run/a"), std::path::Path::new("/run/b")]);
}

#[test]
fn the_host_is_the_one_that_is_written() {
    for (uri, host) in [
        ("postgresql://u:p@127.0.0.1/sd", "127.0.0.1"),
        ("postgresql://u:p@[::1]/sd", "::1"),
        ("postgresql://u:p@[::1]:5433/sd", "::1"),
        ("postgresql://u:p@[fe80::1%25eth0]:5433/sd", "fe80::1%eth0"),
        ("postgresql://u:p@/sd?host=::1", "::1"),
        ("postgresql://u:p@/sd?host=[::1]:5433", "::1"),
        ("postgresql://u:p@/sd?host=fe80::1%25eth0", "fe80::1%eth0"),
        ("postgresql://u:p@/sd?hostaddr=2001:db8::1", "2001:db8::1"),
        ("postgresql://u:p@DB.example.org./sd", "DB.example.org."),
    ] {
        let options = connect(uri);
        assert_eq!((options.get_host(), options.get_socket()), (host, None), "{uri}");
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Prefer), "{uri}");
    }
    for uri in [
        "postgresql://u:p@/sd?host=/run/pg",
        "postgresql+psycopg2://u:p@/sd?host=/run/pg&sslmode=require",
        "postgresql://u:p@%2Frun%2Fpg/sd",
        "postgresql://?host=%2Frun%2Fpg&dbname=sd&user=u",
    ] {
        let options = connect(uri);
        let folder = options.get_socket().expect(uri);
        assert_eq!((folder.to_str(), options.get_database()), (Some("/run/pg"), Some("sd")));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Disable), "sockets have no TLS");
    }
}

#[test]
fn tls_is_as_strict_as_libpq_makes_it() {
    for (query, mode) in [
        ("sslmode=disable", PgSslMode::Disable),
        ("sslmode=require", PgSslMode::Require),
        ("sslmode=require&sslrootcert=/ca.pem", PgSslMode::VerifyCa),
        ("sslmode=verify-full&sslrootcert=/ca.pem", PgSslMode::VerifyFull),
        ("sslrootcert=system", PgSslMode::VerifyFull),
        ("sslrootcert=system&sslmode=verify-full", PgSslMode::VerifyFull),
        ("ssl-mode=verify-ca&ssl-root-cert=/ca.pem", PgSslMode::VerifyCa),
    ] {
        let mode_read = connect(&format!("postgresql://u:p@db/sd?{query}")).get_ssl_mode();
        assert_eq!(format!("{mode_read:?}"), format!("{mode:?}"), "{query}");
    }
}

#[test]
fn options_of_the_session_win_over_those_of_the_address() {
    let uri = "postgresql://u@db/sd?options=-c%20search_path%3Dx&options[lock_timeout]=1h";
    let session = options(uri).expect(uri).with([("lock_timeout", "1min")]).unchecked();
    let options = session.get_options().expect("options");
    let place = |part: &str| options.find(part).unwrap_or_else(|| panic!("{part}: {options}"));
    assert!(place("search_path=x") < place("lock_timeout=1h"));
    assert!(place("lock_timeout=1h") < place("lock_timeout=1min"), "the last one counts");
    place(r"default_transaction_isolation=read\ committed");
}

#[test]
fn parameters_that_change_nothing_are_told() {
    let uri = "postgresql://u@db/sd?connect_timeout=3&keepalives=1&target_session_attrs=any";
    assert_eq!(options(uri).expect(uri).ignored, ["connect_timeout", "keepalives"]);
    for (attribute, target) in [("primary", Target::Primary), ("read-write", Target::ReadWrite)] {
        let uri = format!("postgresql://u@db/sd?target_session_attrs={attribute}");
        assert_eq!(options(&uri).expect(attribute).target, target);
    }
}

#[test]
fn other_uris_are_refused_without_showing_a_secret() {
    for (uri, says) in [
        ("sqlite:///example", "must be `postgresql://"),
        ("mysql://u:hush@db/sd", "must be `postgresql://"),
        ("nonsense", "must be `postgresql://"),
        ("postgresql://u:hush@db:x/sd", "the port is not a number"),
        ("postgresql://u:hush@a,,b/sd", "it names no host"),
        ("postgresql://u:hush@a,:5432/sd", "it names no host"),
        ("postgresql://u:hush@a,d b/sd", "the host is not a name"),
        ("postgresql://u:hush@a,b/sd?host=a", "`host` is named twice"),
        ("postgresql://u:hush@a,b/sd?host=b,a", "`host` is named twice"),
        ("postgresql://u:hush@/sd?host=a&port=1,2", "nor one for each host"),
        ("postgresql://u:hush@a,b,c/sd?port=1,2", "nor one for each host"),
        ("postgresql://u:hush@a:1,b/sd?port=2,2", "`port` is named twice"),
        ("postgresql://u:hush@a,b/sd?port=1,", "the port is not a number"),
        ("postgresql://u:hush@a,b/sd?target_session_attrs=standby", "that takes writes"),
        ("postgresql://u:hush@a,b/sd?target_session_attrs=prefer-standby", "that takes writes"),
        ("postgresql://u:hush@a/sd?host=b", "`host` is named twice"),
        ("postgresql://u:hush@a/sd?host=/run/pg", "`host` is named twice"),
        ("postgresql://u:hush@a/sd?hostaddr=10.0.0.1", "`host` is named twice"),
        ("postgresql://u:hush@a:1/sd?port=2", "`port` is named twice"),
        ("postgresql://u:hush@a/sd?password=hush2", "`password` is named twice"),
        ("postgresql://u:hush@a/sd?dbname=other", "`dbname` is named twice"),
        ("postgresql://u:hush@/sd?hostaddr=db", "`hostaddr` is not an IP address"),
        ("postgresql://u:hush@/sd?host=@abstract", "write `/` as `%2F`"),
        ("postgresql://u:hush@/sd?host=./folder", "the host is not a name"),
        ("postgresql://u:hush@::1/sd", "in brackets"),
        ("postgresql://u:12/hush@db/sd", "`%2F`"),
        ("postgresql://u:12?hush=1@db/sd", "`%3F`"),
        ("postgresql://u:p@db/sd?hush=hush", "parameter 1 after the `?` is none"),
        ("postgresql://db/sd?password=a&hush", "parameter 2 after the `?` is none"),
        ("postgresql://u:p@db/sd?sslpassword=hush", "`sslpassword` is not supported"),
        ("postgresql://u:p@db/sd?sslmode=hush", "`sslmode` is none of disable"),
        ("postgresql://u:p@db/sd?sslmode=require&sslrootcert=system", "must be verify-full"),
        ("postgresql://u:p@db/sd?channel_binding=require", "`channel_binding` is supported as"),
        ("postgresql://u:p@db/sd?gssencmode=require", "`gssencmode` is supported as"),
        ("postgresql://u:p@db/sd?target_session_attrs=standby", "that takes writes"),
        ("postgresql://u:p@db/sd?target_session_attrs=hush", "is none of any, primary"),
        (
            "postgresql://u:p@db/sd?statement-cache-capacity=hush",
            "differently from how it is written",
        ),
    ] {
        let error = options(uri).expect_err(uri).to_string();
        assert!(
            error.starts_with("SDB_DATABASE_URI is `…`, but must be `postgresql://"),
            "{error}"
        );
        assert!(error.contains(says) && !error.contains("hush"), "{uri}: {error}");
    }
}
