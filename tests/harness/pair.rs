//! A primary and a standby of PostgreSQL, of a test's own.

use std::{str::FromStr, sync::Arc};

use anyhow::Result;
use deploy::servers::{Postgres, has_ipv6};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{Fixture, System};

/// The name of the standby in `synchronous_standby_names`.
const STANDBY: &str = "sdb_b";

/// Whether commits wait for the standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// They do.
    Synchronous,
    /// They do not.
    Asynchronous,
}

/// The two servers.
pub struct Pair {
    /// The fixture, whose PostgreSQL is the first primary.
    pub fixture: Arc<Fixture>,
    /// The standby.
    pub standby: Postgres,
}

impl Fixture {
    /// A primary and a standby of the test's own.
    pub fn with_own_pair(&self, replication: Replication) -> Result<Pair> {
        let (fixture, standby) = self.with_own_standby(STANDBY)?;
        if replication == Replication::Synchronous {
            fixture.postgres().wait_for_standbys(STANDBY)?;
        }
        Ok(Pair { fixture, standby })
    }
}

impl Pair {
    /// The first primary.
    #[must_use]
    pub fn primary(&self) -> &Postgres {
        self.fixture.postgres()
    }

    /// A prepared database, whose address names both servers: the standby by IPv6, if there is any.
    pub async fn prepared(&self) -> Result<System> {
        let mut system = System::prepared(&self.fixture).await?;
        system.database_uri = self.address(&system.database_uri);
        Ok(system)
    }

    /// The address of a database of the first primary, on both servers.
    #[must_use]
    pub fn address(&self, uri: &str) -> String {
        let host = if has_ipv6() { "[::1]" } else { "127.0.0.1" };
        let (first, second) = (self.primary().port(), self.standby.port());
        uri.replace(&format!(":{first}/"), &format!(":{first},{host}:{second}/"))
    }

    /// Promotes the standby; the test's own connections go there from now on.
    pub async fn promote(&self, system: &mut System) -> Result<()> {
        self.standby.promote()?;
        system.database = connect(&self.standby.database_uri(&system.vhost)).await?;
        Ok(())
    }
}

/// Connections of the test's own. Whatever defaults a test gives to its database and its role, the checks at its end
/// write, and wait for as long as they need.
///
/// # Errors
/// When the server does not answer.
pub async fn connect(uri: &str) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(uri)?.options([
        ("default_transaction_read_only", "off"),
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", "0"),
    ]);
    Ok(PgPoolOptions::new().max_connections(3).connect_with(options).await?)
}
