//! The error codes of PostgreSQL that the programs know.

/// `exclusion_violation`.
pub const EXCLUSION_VIOLATION: &str = "23P01";
/// `untranslatable_character`.
const UNTRANSLATABLE_CHARACTER: &str = "22P05";
/// `undefined_column`.
pub const UNDEFINED_COLUMN: &str = "42703";
/// `undefined_function`.
pub const UNDEFINED_FUNCTION: &str = "42883";
/// `undefined_table`.
pub const UNDEFINED_TABLE: &str = "42P01";
/// `lock_not_available`: `lock_timeout` has passed.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";
/// `query_canceled`: `statement_timeout` has passed, or somebody called `pg_cancel_backend`.
pub const QUERY_CANCELED: &str = "57014";

/// Whether PostgreSQL refused a statement with this code.
#[must_use]
pub fn is(error: &sqlx::Error, code: &str) -> bool {
    of(error).as_deref() == Some(code)
}

/// The code with which PostgreSQL refused a statement; none if the error is another one.
#[must_use]
pub fn of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether a statement failed because the database's encoding lacks a character of a parameter. Nothing in
/// the database can be equal to such a parameter.
#[must_use]
pub fn lacks_characters(error: &sqlx::Error) -> bool {
    is(error, UNTRANSLATABLE_CHARACTER)
}

/// The error if a server did not answer in time.
#[must_use]
pub fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
