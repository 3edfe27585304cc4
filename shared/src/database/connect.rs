//! Connects to PostgreSQL: the address of the settings, the options of a session, the choice of the primary.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{ConnectOptions as _, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{
    servers::{SERVER_LIMIT, Servers},
    session::{self, SessionError},
    sqlstate::timed_out,
    uri::{self, Address, Target},
};
use crate::{
    settings::{Settings, SettingsError, invalid},
    telemetry,
};

const NAME: &str = "SDB_DATABASE_URI";
const OTHER_NAME: &str = "SDB_SQLALCHEMY_DATABASE_URI";
const EXPECTED: &str =
    "`postgresql://user:password@host:port/database`, with `?sslmode=` if wanted";

/// Options of every session, in the form in which PostgreSQL shows them, because they are verified.
///
/// The server ends a session whose client is gone or stalls: it must not keep the lock that every worker
/// waits for. The isolation level is the one that the programs are written for, whatever the defaults of
/// the role or the database are.
const SESSION: [(&str, &str); 6] = [
    ("TimeZone", "UTC"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("lock_timeout", "5s"),
    ("statement_timeout", "30s"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
];

/// Options of the server's side of a TCP connection. They are not verified, because a Unix socket has none.
const TCP: [(&str, &str); 4] = [
    ("tcp_user_timeout", "5s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
];

/// Options for connections all of whose queries use an index. Otherwise PostgreSQL would plan for the size
/// that a table once had and keep that plan: every partition of the inbox is empty when its week begins.
pub const BY_INDEX: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    // A table of one row is scanned sequentially, at a penalized cost that would trigger JIT compilation.
    ("jit", "off"),
];

/// How to connect to PostgreSQL, and the required options of each session.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    servers: Servers,
    /// Options of the session, with their values in the form in which PostgreSQL shows them.
    session: BTreeMap<&'static str, &'static str>,
    /// Whether a commit waits until it is on disk, and on a synchronous standby.
    is_durable: bool,
    target: Target,
    ignored: Vec<&'static str>,
    contradiction: Option<&'static str>,
}

/// The warning if both names of the address are set and differ. That may be intended: the Python dashboard
/// may use a pooler.
///
/// # Errors
/// If one of them is in a file that can't be used.
pub fn contradiction(settings: &Settings) -> Result<Option<&'static str>, SettingsError> {
    let are_set = settings.is_set(NAME) && settings.is_set(OTHER_NAME);
    let differ = are_set && settings.text_or_file(NAME)? != settings.text_or_file(OTHER_NAME)?;
    Ok(differ.then_some(
        "SDB_DATABASE_URI is used, and SDB_SQLALCHEMY_DATABASE_URI, which differs, is not: the Python \
        dashboard does the opposite. Check that both name the same database",
    ))
}

/// The connection options of the settings.
///
/// # Errors
/// If no address is set, or if it is invalid.
pub fn connect_options(
    settings: &Settings,
    application: &str,
) -> Result<ConnectOptions, SettingsError> {
    let name =
        if !settings.is_set(NAME) && settings.is_set(OTHER_NAME) { OTHER_NAME } else { NAME };
    let uri = settings.required(name)?;
    // The address has the password, so it is not printed.
    let Address { connect, target, ignored } = uri::parse(&uri)
        .map_err(|problem| invalid(name, "…", &format!("{EXPECTED}: {problem}")))?;
    let connect = connect.into_iter().map(|server| {
        server
            .application_name(application)
            .options(TCP)
            .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(1))
    });
    let servers = Servers::new(connect);
    let session = BTreeMap::from(SESSION);
    let contradiction = contradiction(settings)?;
    Ok(ConnectOptions { servers, session, is_durable: true, target, ignored, contradiction })
}

impl ConnectOptions {
    /// Adds or replaces options of the session. Write the values as PostgreSQL shows them: `1min`, not
    /// `60s`.
    #[must_use]
    pub fn with<const N: usize>(mut self, options: [(&'static str, &'static str); N]) -> Self {
        self.session.extend(options);
        self
    }

    /// For writes that a crash may lose: their commits do not wait for the disk.
    #[must_use]
    pub fn not_durable(self) -> Self {
        Self { is_durable: false, ..self }.with([("synchronous_commit", "off")])
    }

    /// The servers of the address.
    #[must_use]
    pub const fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The options for sqlx, for the current primary. Pass each connection that is made with them to
    /// [`Self::check`].
    #[must_use]
    pub fn unchecked(&self) -> PgConnectOptions {
        self.unchecked_with_epoch().0
    }

    /// The same, with the epoch of the primary.
    #[must_use]
    pub fn unchecked_with_epoch(&self) -> (PgConnectOptions, u64) {
        let (server, epoch) = self.servers.primary().unwrap_or_else(|| self.servers.first());
        (self.with_session(server), epoch)
    }

    fn with_session(&self, server: PgConnectOptions) -> PgConnectOptions {
        server.options(&self.session)
    }

    /// Connects to the primary, and verifies the session. If the last known one can't be used, all servers
    /// are asked which of them is it.
    ///
    /// # Errors
    /// If the database can't be reached; a [`SessionError`] if the session lacks a required property, or if
    /// none of several servers can be used.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        Ok(self.connect_with_epoch().await?.0)
    }

    pub(super) async fn connect_with_epoch(&self) -> Result<(PgConnection, u64), sqlx::Error> {
        if !self.servers.are_several() {
            return self.connect_to(self.servers.first()).await;
        }
        while let Some(primary) = self.servers.primary() {
            let epoch = primary.1;
            let connected = tokio::select! {
                connected = self.connect_soon(primary) => connected,
                // Meanwhile another server has taken over, which is tried next.
                () = self.servers.replaced(epoch) => continue,
            };
            match connected {
                Ok(connected) => return Ok(connected),
                Err(error) if SessionError::of(&error).is_some_and(SessionError::is_lasting) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(reason = telemetry::chain(&error), "asking all servers");
                    break;
                }
            }
        }
        self.servers.look().await;
        let primary = self.servers.usable_primary().map_err(SessionError::NoPrimary)?;
        self.connect_soon(primary).await
    }

    /// Connects to one of several servers, which must not hold up the others.
    async fn connect_soon(
        &self,
        server: (PgConnectOptions, u64),
    ) -> Result<(PgConnection, u64), sqlx::Error> {
        let connecting = timeout(SERVER_LIMIT, self.connect_to(server));
        connecting.await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn connect_to(
        &self,
        (server, epoch): (PgConnectOptions, u64),
    ) -> Result<(PgConnection, u64), sqlx::Error> {
        let connected = PgConnection::connect_with(&self.with_session(server)).await;
        let mut connection = connected.map_err(|error| match SessionError::refusal(&error) {
            Some(refusal) => refusal.into(),
            None => error,
        })?;
        self.check(&mut connection).await?;
        Ok((connection, epoch))
    }

    /// Verifies a new session, and sets its remaining options. One round trip.
    ///
    /// # Errors
    /// If the database fails; a [`SessionError`] if the session lacks a required property.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let is_tcp = |name: &str| TCP.iter().any(|(of_tcp, _)| *of_tcp == name);
        let compared = || self.session.iter().filter(|(name, _)| !is_tcp(name));
        let several = Some(&self.servers).filter(|servers| servers.are_several());
        let names = compared().map(|(name, _)| *name);
        let statements = session::statements(names, self.is_durable, several.is_some());
        let options = compared().map(|(name, wanted)| (*name, *wanted));
        session::check(connection, statements, options, self.target, several).await
    }

    /// Connects like [`Self::connect`], and verifies with a second connection that sessions are not shared.
    /// For the start of a program.
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

    /// Logs the ignored parameters of the address, and whether another address is set.
    pub(crate) fn log_ignored(&self) {
        if let Some(contradiction) = self.contradiction {
            tracing::warn!("{contradiction}");
        }
        if !self.ignored.is_empty() {
            let parameters = self.ignored.join(", ");
            tracing::info!(parameters, "{NAME}: ignoring parameters that have no effect");
        }
    }

    /// The host, or the folder of a Unix socket, the port and the name of the database, for traces; of
    /// several servers those of the one that is named first.
    #[must_use]
    pub fn address(&self) -> (String, u16, String) {
        let connect = self.unchecked();
        let folder = connect.get_socket().map(|folder| folder.display().to_string());
        let host = folder.unwrap_or_else(|| connect.get_host().to_owned());
        let name = connect.get_database().unwrap_or(connect.get_username()).to_owned();
        (host, connect.get_port(), name)
    }
}

#[cfg(test)]
mod tests;
