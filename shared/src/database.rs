//! How both programs connect to PostgreSQL.

use std::str::FromStr;

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use crate::{
    metrics::{COMMON, Server},
    settings::{Settings, SettingsError, invalid},
};

const NAME: &str = "SDB_DATABASE_URI";
const OTHER_NAME: &str = "SDB_SQLALCHEMY_DATABASE_URI";
const EXPECTED: &str =
    "`postgresql://user:password@host:port/database`, with `?sslmode=` if wanted";

/// Options for connections that find by an index whatever they read, each time. It is said to
/// PostgreSQL, since it would plan by the size that a table had once, and keep the plan: every part
/// of the inbox is empty when its week begins.
pub const BY_INDEX: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    // A table of one row is read without its index, at a price that would have plans compiled.
    ("jit", "off"),
];

/// The connection that the settings name.
///
/// Each session ends by itself when its client is gone or stalls: a lost one must not hold the lock
/// that every worker waits for.
///
/// # Errors
/// When no database is named, or in a way that can't be read.
pub fn connect_options(
    settings: &Settings,
    application: &str,
) -> Result<PgConnectOptions, SettingsError> {
    let name =
        if !settings.is_set(NAME) && settings.is_set(OTHER_NAME) { OTHER_NAME } else { NAME };
    let uri = settings.required(name)?;
    // The URI holds the password, so neither it nor the parser's error is shown.
    let refused = || invalid(name, "…", EXPECTED);
    let (scheme, rest) = uri.split_once("://").ok_or_else(refused)?;
    // SQLAlchemy names its driver in the scheme: postgresql+psycopg2.
    let scheme = scheme.split_once('+').map_or(scheme, |(dialect, _driver)| dialect);
    if scheme != "postgresql" && scheme != "postgres" {
        return Err(refused());
    }
    let options = PgConnectOptions::from_str(&format!("postgresql://{rest}"))
        .map_err(|_| refused())?
        .application_name(application)
        .options([
            ("timezone", "UTC"),
            ("idle_in_transaction_session_timeout", "5s"),
            ("lock_timeout", "5s"),
            ("statement_timeout", "30s"),
            ("tcp_user_timeout", "5s"),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
        ])
        .log_slow_statements(tracing::log::LevelFilter::Warn, std::time::Duration::from_secs(1));
    Ok(options)
}

/// One connection, made when it is needed. Unlike a pool's, a connection that was given up in the
/// middle of something is closed at once, so that nothing waits for a server that is silent.
#[derive(Debug)]
pub struct Database {
    options: PgConnectOptions,
    idle: Option<PgConnection>,
    /// Whether there was a connection already.
    connected: bool,
}

impl Database {
    /// To where these options lead.
    #[must_use]
    pub const fn new(options: PgConnectOptions) -> Self {
        Self { options, idle: None, connected: false }
    }

    /// Where it leads.
    #[must_use]
    pub const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Runs something on the connection. It is kept only when that was done to its end, and without
    /// an error: dropped before, or failed, it is closed, and what it was at is rolled back.
    ///
    /// # Errors
    /// Those of `work`, and those of making the connection.
    pub async fn with<T, E: From<sqlx::Error>>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = match self.idle.take() {
            Some(connection) => connection,
            None => {
                let connection = PgConnection::connect_with(&self.options).await?;
                if std::mem::replace(&mut self.connected, true) {
                    COMMON.reconnects.of(Server::Postgresql).inc();
                }
                connection
            }
        };
        let done = work(&mut connection).await?;
        self.idle = Some(connection);
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(uri: &str) -> Result<PgConnectOptions, SettingsError> {
        let settings = Settings::new([(NAME.to_owned(), uri.to_owned())]);
        connect_options(&settings, "test")
    }

    #[test]
    fn the_python_dashboards_uris_are_read() {
        for uri in [
            "postgresql://u:p@db:5433/sd",
            "postgres://u:p@db:5433/sd?sslmode=require",
            "postgresql+psycopg2://u:p@db:5433/sd",
        ] {
            let options = options(uri).expect(uri);
            assert_eq!((options.get_host(), options.get_port()), ("db", 5433));
            assert_eq!(options.get_database(), Some("sd"));
        }
        let other = Settings::new([(OTHER_NAME.to_owned(), "postgresql://u@other/sd".to_owned())]);
        assert_eq!(connect_options(&other, "test").expect("other name").get_host(), "other");
    }

    #[test]
    fn other_uris_are_refused_without_showing_the_password() {
        for uri in
            ["sqlite:///example", "mysql://u:hush@db/sd", "nonsense", "postgresql://u:hush@db:x/sd"]
        {
            let error = options(uri).expect_err(uri).to_string();
            assert!(
                error.starts_with("SDB_DATABASE_URI is `…`, but must be `postgresql://"),
                "{error}"
            );
            assert!(!error.contains("hush"));
        }
    }
}
