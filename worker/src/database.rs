//! A connection to PostgreSQL that comes back.

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

/// One connection, made when it is needed. Unlike a pool's, a connection that was given up in the
/// middle of something is closed at once, so that nothing waits for a server that is silent.
pub(crate) struct Database {
    options: PgConnectOptions,
    idle: Option<PgConnection>,
}

impl Database {
    pub(crate) const fn new(options: PgConnectOptions) -> Self {
        Self { options, idle: None }
    }

    pub(crate) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Runs something on the connection. It is kept only when that was done to its end, and without
    /// an error: dropped before, or failed, it is closed, and what it was at is rolled back.
    pub(crate) async fn with<T, E: From<sqlx::Error>>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = match self.idle.take() {
            Some(connection) => connection,
            None => PgConnection::connect_with(&self.options).await?,
        };
        let done = work(&mut connection).await?;
        self.idle = Some(connection);
        Ok(done)
    }
}
