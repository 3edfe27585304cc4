//! One connection that is opened when it is needed, and closed when it fails.

use std::{sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::time::timeout;

use super::{connect::ConnectOptions, servers::IdleSession, session::SessionError, sqlstate};
use crate::telemetry::metrics::{COMMON, Server};

/// One connection, opened when it is needed. Unlike one of a pool, it is closed at once if it is abandoned
/// in the middle of an operation, so that nothing waits for a server that does not answer.
#[derive(Debug)]
pub struct Database {
    options: Arc<ConnectOptions>,
    idle: Arc<IdleSession>,
    /// Whether it was connected before.
    connected: bool,
}

impl Database {
    /// A connection with these options, not yet opened.
    #[must_use]
    pub fn new(options: ConnectOptions) -> Self {
        let idle = Arc::default();
        options.servers().close_when_replaced(&idle);
        Self { options: Arc::new(options), idle, connected: false }
    }

    /// Its options.
    #[must_use]
    pub const fn options(&self) -> &Arc<ConnectOptions> {
        &self.options
    }

    /// Runs an operation on the connection. The connection is kept only if the operation succeeds. If it
    /// fails or is dropped, or another server takes over, the connection is closed, and its transaction is
    /// rolled back.
    ///
    /// # Errors
    /// Those of `work`, those of connecting, and [`SessionError::Replaced`].
    pub async fn with<T, E: From<sqlx::Error>>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let servers = self.options.servers().clone();
        let idle = self.idle.lock().take().filter(|(_, epoch)| *epoch == servers.epoch());
        let (mut connection, epoch) = match idle {
            Some(idle) => idle,
            None => {
                let connected = self.options.connect_with_epoch().await?;
                if std::mem::replace(&mut self.connected, true) {
                    COMMON.reconnects.of(Server::Postgresql).inc();
                }
                connected
            }
        };
        let done = tokio::select! {
            done = work(&mut connection) => done?,
            () = servers.replaced(epoch) => return Err(sqlx::Error::from(SessionError::Replaced).into()),
        };
        *self.idle.lock() = Some((connection, epoch));
        Ok(done)
    }

    /// The same within a time limit, connecting included.
    ///
    /// # Errors
    /// Those of [`Self::with`], and that the server did not answer in time.
    pub async fn with_within<T, E: From<sqlx::Error>>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let done = timeout(limit, self.with(work)).await;
        done.unwrap_or_else(|_| Err(sqlstate::timed_out().into()))
    }
}
