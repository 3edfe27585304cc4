//! Verifies that a session has the requested properties.
//!
//! A connection pooler may drop the options of a session, or give the server's session to another client
//! between two transactions. Then time limits would be missing, and one program would run the prepared
//! statements of another. Both are detected before anything is prepared, and refused.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow, raw_sql};

use super::{
    servers::{ORIGIN, Origin, Servers, Unfit},
    uri::Target,
};

/// Marks a session of the server as in use: a second client that finds the mark shares the session.
const MARK: &str = "sdb.session";

/// Why a session can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// An option of the session has another value.
    #[error(
        "the database session has {name} = {found} instead of {wanted}: a connection pooler in between \
         drops the session's options. Connect to PostgreSQL itself instead of a pooler such as PgBouncer"
    )]
    Option {
        /// The option.
        name: &'static str,
        /// The requested value.
        wanted: &'static str,
        /// The actual value.
        found: String,
    },
    /// Other clients use the same session.
    #[error(
        "the database session is shared with other clients: a connection pooler in between works in \
         transaction or statement mode. Connect to PostgreSQL itself instead of a pooler such as PgBouncer"
    )]
    Shared,
    /// A pooler refuses the options.
    #[error(
        "a connection pooler refuses the session's options ({0}). Connect to PostgreSQL itself instead of a \
         pooler such as PgBouncer"
    )]
    Pooler(String),
    /// Triggers would not fire.
    #[error(
        "the database session has session_replication_role = {0}, with which triggers don't fire and lists \
         don't show changes: reset it (`ALTER ROLE … RESET session_replication_role`)"
    )]
    Triggers(String),
    /// The address requires a server that accepts writes.
    #[error("the database accepts no writes, but `target_session_attrs` requires it")]
    ReadOnly,
    /// One of several servers can't be used.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// None of several servers can be used now: each with its reason.
    #[error("no server of the address takes writes: {0}")]
    NoPrimary(String),
    /// Another server has taken over while the session was in use.
    #[error("another server of the address has taken over")]
    Replaced,
}

impl From<SessionError> for sqlx::Error {
    fn from(error: SessionError) -> Self {
        Self::Configuration(Box::new(error))
    }
}

impl SessionError {
    /// The session error inside an error of sqlx, if it is one.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Option<&Self> {
        let sqlx::Error::Configuration(reason) = error else { return None };
        reason.downcast_ref()
    }

    /// Whether it lasts until somebody changes the setup. A standby may be promoted.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::Option { .. } | Self::Shared | Self::Pooler(_) | Self::Triggers(_) => true,
            Self::ReadOnly | Self::Unfit(_) | Self::NoPrimary(_) | Self::Replaced => false,
        }
    }

    /// Recognizes the answer of a pooler to options that it is not configured to ignore.
    pub(super) fn refusal(error: &sqlx::Error) -> Option<Self> {
        let message = error.as_database_error()?.message();
        message
            .starts_with("unsupported startup parameter")
            .then(|| Self::Pooler(message.to_owned()))
    }
}

/// Why an operator's command can't connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The session can't be used.
    #[error(transparent)]
    Session(SessionError),
    /// The database does not answer, or refuses the connection.
    #[error("the database can't be reached")]
    Unreachable(#[source] sqlx::Error),
}

impl From<sqlx::Error> for ConnectError {
    fn from(error: sqlx::Error) -> Self {
        match SessionError::of(&error) {
            Some(refusal) => Self::Session(refusal.clone()),
            None => Self::Unreachable(error),
        }
    }
}

/// The statements that verify a new session and set its remaining options: one round trip, unprepared.
pub(super) fn statements<'a>(
    options: impl Iterator<Item = &'a str>,
    is_durable: bool,
    is_one_of_several: bool,
) -> AssertSqlSafe<String> {
    let mut statement = format!(
        "SELECT coalesce(current_setting('{MARK}', true), ''),
            current_setting('session_replication_role'),
            pg_is_in_recovery()::text, current_setting('transaction_read_only')"
    );
    for name in options {
        // The names are constants of this program. Writing to a string can't fail.
        write!(statement, ", coalesce(current_setting('{name}', true), 'nothing')").ok();
    }
    if is_one_of_several {
        write!(statement, ", {ORIGIN}").ok();
    }
    write!(statement, "; SELECT set_config('{MARK}', 'taken', false)").ok();
    if is_durable {
        // Always set: otherwise a change of the server's configuration would affect the session.
        statement.push_str(
            ", set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)",
        );
    }
    AssertSqlSafe(statement)
}

/// Runs the statements and verifies their results.
pub(super) async fn check(
    database: &mut PgConnection,
    statements: AssertSqlSafe<String>,
    options: impl Iterator<Item = (&'static str, &'static str)>,
    target: Target,
    servers: Option<&Servers>,
) -> Result<(), sqlx::Error> {
    let rows = raw_sql(statements).fetch_all(database).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let text = |place: usize| first.try_get::<String, _>(place);
    let mut places = 4..;
    for ((name, wanted), place) in options.zip(&mut places) {
        let found = text(place)?;
        if found != wanted {
            return Err(SessionError::Option { name, wanted, found }.into());
        }
    }
    if !text(0)?.is_empty() {
        return Err(SessionError::Shared.into());
    }
    let triggers = text(1)?;
    if triggers != "origin" {
        return Err(SessionError::Triggers(triggers).into());
    }
    let (in_recovery, read_only) = (text(2)? == "true", text(3)? == "on");
    let unfit = match target {
        Target::Primary => in_recovery,
        Target::ReadWrite => read_only,
        Target::Any => false,
    };
    if unfit {
        return Err(SessionError::ReadOnly.into());
    }
    if let Some(servers) = servers {
        let origin = Origin::read(first, &mut places)?;
        servers.verify(origin).map_err(SessionError::from)?;
    }
    Ok(())
}

/// Verifies that the first of two sessions keeps its server process: from one statement to the next, which
/// fails with a pooler that rotates them, and while the second session is in a transaction, for which a
/// pooler uses the most recently used process.
pub(super) async fn check_own_process(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let (start, before) = (process(first).await?, process(first).await?);
    raw_sql("BEGIN").execute(&mut *second).await?;
    let after = process(first).await?;
    raw_sql("ROLLBACK").execute(&mut *second).await?;
    if start == before && before == after { Ok(()) } else { Err(SessionError::Shared.into()) }
}

async fn process(database: &mut PgConnection) -> Result<i32, sqlx::Error> {
    raw_sql("SELECT pg_backend_pid()")
        .fetch_one(database)
        .await
        .and_then(|row: PgRow| row.try_get(0))
}
