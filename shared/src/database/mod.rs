//! How both programs connect to PostgreSQL.

pub mod components;
pub mod parked;
mod session;
mod uri;

use std::{collections::BTreeMap, time::Duration};

use sqlx::{ConnectOptions as _, Connection, PgConnection, postgres::PgConnectOptions};

pub use self::session::SessionError;
use self::uri::{Address, Target};
use crate::{
    metrics::{COMMON, Server},
    settings::{Settings, SettingsError, invalid},
};

const NAME: &str = "SDB_DATABASE_URI";
const OTHER_NAME: &str = "SDB_SQLALCHEMY_DATABASE_URI";
const EXPECTED: &str =
    "`postgresql://user:password@host:port/database`, with `?sslmode=` if wanted";

/// Options of every session, as PostgreSQL shows them: they are compared.
///
/// Each session ends by itself when its client is gone or stalls: a lost one must not hold the lock
/// that every worker waits for. Transactions are what the programs were written for, whatever a role
/// or a database has for a default.
const SESSION: [(&str, &str); 6] = [
    ("TimeZone", "UTC"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("lock_timeout", "5s"),
    ("statement_timeout", "30s"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
];

/// Options of the server's end of a TCP connection. They are not compared: a socket has none.
const TCP: [(&str, &str); 4] = [
    ("tcp_user_timeout", "5s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
];

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

/// How to connect to PostgreSQL, and what each session must be like.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    connect: PgConnectOptions,
    /// Options of the session, each with the value that PostgreSQL shows.
    session: BTreeMap<&'static str, &'static str>,
    /// Whether a commit is on disk, and on a synchronous standby, before it is answered.
    is_durable: bool,
    target: Target,
    passed_over: Vec<&'static str>,
    contradiction: Option<&'static str>,
}

/// Whether a statement failed since the database's encoding lacks a character of what was bound to it:
/// nothing in the database equals that.
#[must_use]
pub fn lacks_characters(error: &sqlx::Error) -> bool {
    const UNTRANSLATABLE_CHARACTER: &str = "22P05";
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some(UNTRANSLATABLE_CHARACTER)
}

/// What is wrong when both names of the address are set, to different addresses. It may be so on
/// purpose: the Python dashboard may use a pooler.
#[must_use]
pub fn contradiction(settings: &Settings) -> Option<&'static str> {
    let is_set = settings.is_set(NAME) && settings.is_set(OTHER_NAME);
    (is_set && settings.text(NAME) != settings.text(OTHER_NAME)).then_some(
        "SDB_DATABASE_URI is used, and SDB_SQLALCHEMY_DATABASE_URI, which differs, is not: the Python \
        dashboard does it the other way round. See that both name the same database",
    )
}

/// The connection that the settings name.
///
/// # Errors
/// When no database is named, or in a way that can't be read.
pub fn connect_options(
    settings: &Settings,
    application: &str,
) -> Result<ConnectOptions, SettingsError> {
    let name =
        if !settings.is_set(NAME) && settings.is_set(OTHER_NAME) { OTHER_NAME } else { NAME };
    let uri = settings.required(name)?;
    // The URI holds the password, so it is not shown.
    let Address { connect, target, passed_over } = uri::parse(&uri)
        .map_err(|problem| invalid(name, "…", &format!("{EXPECTED}: {problem}")))?;
    let connect = connect
        .application_name(application)
        .options(TCP)
        .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(1));
    let session = BTreeMap::from(SESSION);
    let contradiction = contradiction(settings);
    Ok(ConnectOptions { connect, session, is_durable: true, target, passed_over, contradiction })
}

impl ConnectOptions {
    /// The same with these options of the session. Their values are to be written as PostgreSQL shows
    /// them: `1min`, not `60s`.
    #[must_use]
    pub fn with<const N: usize>(mut self, options: [(&'static str, &'static str); N]) -> Self {
        self.session.extend(options);
        self
    }

    /// The same for what may be lost in a crash, so that its commits don't wait for the disk.
    #[must_use]
    pub fn not_durable(self) -> Self {
        Self { is_durable: false, ..self }.with([("synchronous_commit", "off")])
    }

    /// For sqlx. Each connection made by these alone is to be given to [`Self::check`].
    #[must_use]
    pub fn unchecked(&self) -> PgConnectOptions {
        self.connect.clone().options(&self.session)
    }

    /// Connects, and checks the session.
    ///
    /// # Errors
    /// When the database can't be reached, and a [`SessionError`] when the session is not what it must
    /// be.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connected = PgConnection::connect_with(&self.unchecked()).await;
        let mut connection = connected.map_err(|error| match SessionError::refusal(&error) {
            Some(refusal) => refusal.into(),
            None => error,
        })?;
        self.check(&mut connection).await?;
        Ok(connection)
    }

    /// Checks a session that was just made, and completes it. One round trip.
    ///
    /// # Errors
    /// When the database fails, and a [`SessionError`] when the session is not what it must be.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let is_tcp = |name: &str| TCP.iter().any(|(of_tcp, _)| *of_tcp == name);
        let compared = || self.session.iter().filter(|(name, _)| !is_tcp(name));
        let statements = session::statements(compared().map(|(name, _)| *name), self.is_durable);
        let options = compared().map(|(name, wanted)| (*name, *wanted));
        session::check(connection, statements, options, self.target).await
    }

    /// Connects as [`Self::connect`] does, and proves by a second connection that sessions are not
    /// shared: for the start of a program.
    ///
    /// # Errors
    /// Those of [`Self::connect`].
    pub async fn connect_directly(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect().await?;
        let mut second = self.connect().await?;
        session::check_own_process(&mut connection, &mut second).await?;
        second.close().await?;
        Ok(connection)
    }

    /// Says in the log which parameters of the address change nothing, and whether there is another
    /// address.
    pub(crate) fn log_passed_over(&self) {
        if let Some(contradiction) = self.contradiction {
            tracing::warn!("{contradiction}");
        }
        if !self.passed_over.is_empty() {
            let parameters = self.passed_over.join(", ");
            tracing::info!(parameters, "{NAME}: parameters that change nothing here");
        }
    }

    /// Its host, port and database, for traces.
    pub(crate) fn address(&self) -> (String, u16, String) {
        let connect = &self.connect;
        let folder = connect.get_socket().map(|folder| folder.display().to_string());
        let host = folder.unwrap_or_else(|| connect.get_host().to_owned());
        let name = connect.get_database().unwrap_or(connect.get_username()).to_owned();
        (host, connect.get_port(), name)
    }
}

/// One connection, made when it is needed. Unlike a pool's, a connection that was given up in the
/// middle of something is closed at once, so that nothing waits for a server that is silent.
#[derive(Debug)]
pub struct Database {
    options: ConnectOptions,
    idle: Option<PgConnection>,
    /// Whether there was a connection already.
    connected: bool,
}

impl Database {
    /// To where these options lead.
    #[must_use]
    pub const fn new(options: ConnectOptions) -> Self {
        Self { options, idle: None, connected: false }
    }

    /// Where it leads.
    #[must_use]
    pub const fn options(&self) -> &ConnectOptions {
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
                let connection = self.options.connect().await?;
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
mod tests;
