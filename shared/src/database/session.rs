//! Whether a session is what it was asked to be.
//!
//! A connection pooler may drop the options of a session, or hand the server's session to another
//! client between two transactions. Then time limits would be absent, and one program would run what
//! another has prepared. Both are found before anything is prepared, and refused.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow, raw_sql};

use super::uri::Target;

/// Marks a session of the server as taken: a second client that finds it shares that session.
const MARK: &str = "sdb.session";

/// Why a session can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// An option of the session does not hold.
    #[error(
        "the database session has {name} = {found} instead of {wanted}: a connection pooler in between \
         drops the session's options. Connect to PostgreSQL itself instead of a pooler such as PgBouncer"
    )]
    Option {
        /// Which.
        name: &'static str,
        /// What it was to be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// Other clients have the same session.
    #[error(
        "the database session is shared with other clients: a connection pooler in between works in \
         transaction or statement mode. Connect to PostgreSQL itself instead of a pooler such as PgBouncer"
    )]
    Shared,
    /// A pooler does not take the options.
    #[error(
        "a connection pooler refuses the session's options ({0}). Connect to PostgreSQL itself instead of a \
         pooler such as PgBouncer"
    )]
    Pooler(String),
    /// Triggers would not run.
    #[error(
        "the database session has session_replication_role = {0}, with which triggers don't run and lists \
         don't show what changes: reset it (`ALTER ROLE … RESET session_replication_role`)"
    )]
    Triggers(String),
    /// The address asks for a server that takes writes.
    #[error("the database takes no writes now, which `target_session_attrs` asks for")]
    ReadOnly,
}

impl From<SessionError> for sqlx::Error {
    fn from(error: SessionError) -> Self {
        Self::Configuration(Box::new(error))
    }
}

impl SessionError {
    /// The reason, if that is why there is no connection.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Option<&Self> {
        let sqlx::Error::Configuration(reason) = error else { return None };
        reason.downcast_ref()
    }

    /// Whether it stays so until somebody changes something; a standby may be promoted.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::Option { .. } | Self::Shared | Self::Pooler(_) | Self::Triggers(_) => true,
            Self::ReadOnly => false,
        }
    }

    /// What a pooler answers to options that it was not told to ignore, in place of PostgreSQL.
    pub(super) fn refusal(error: &sqlx::Error) -> Option<Self> {
        let message = error.as_database_error()?.message();
        message
            .starts_with("unsupported startup parameter")
            .then(|| Self::Pooler(message.to_owned()))
    }
}

/// The statements that check and complete a new session: one round trip, and none of it prepared.
pub(super) fn statements<'a>(
    options: impl Iterator<Item = &'a str>,
    is_durable: bool,
) -> AssertSqlSafe<String> {
    let mut statement = format!(
        "SELECT coalesce(current_setting('{MARK}', true), ''),
            current_setting('session_replication_role'),
            pg_is_in_recovery()::text, current_setting('transaction_read_only')"
    );
    for name in options {
        // The names are this program's own. Writing to a string can't fail.
        write!(statement, ", coalesce(current_setting('{name}', true), 'nothing')").ok();
    }
    write!(statement, "; SELECT set_config('{MARK}', 'taken', false)").ok();
    if is_durable {
        // Set in any case: what is not set in the session would follow the server's configuration.
        statement.push_str(
            ", set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)",
        );
    }
    AssertSqlSafe(statement)
}

/// Runs the statements and checks what they say.
pub(super) async fn check(
    database: &mut PgConnection,
    statements: AssertSqlSafe<String>,
    options: impl Iterator<Item = (&'static str, &'static str)>,
    target: Target,
) -> Result<(), sqlx::Error> {
    let rows = raw_sql(statements).fetch_all(database).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let text = |place: usize| first.try_get::<String, _>(place);
    for (place, (name, wanted)) in options.enumerate() {
        let found = text(4 + place)?;
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
    if unfit { Err(SessionError::ReadOnly.into()) } else { Ok(()) }
}

/// Whether the first of two sessions keeps its server process: from one statement to the next, which it
/// does not where a pooler takes them in turn, and while the second session is in a transaction, for
/// which a pooler takes the process that was used last.
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
