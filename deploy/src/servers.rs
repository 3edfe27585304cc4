//! A private PostgreSQL and a private RabbitMQ, with their data in a folder of their own and on
//! ports of their own, so that nothing is touched that runs already.

mod cluster;
mod folder;
mod pgbouncer;
mod ports;
mod postgres;
mod rabbitmq;
mod server;

use std::path::Path;

use anyhow::Result;

pub use self::{
    cluster::Cluster,
    folder::Folder,
    pgbouncer::PgBouncer,
    ports::{has_ipv6, take_port},
    postgres::Postgres,
    rabbitmq::RabbitMq,
};
use crate::packages::{self, Consent};

/// The database and virtual host that are always there.
pub const DEFAULT_NAME: &str = "sdb";
/// The user that owns both servers.
const USER: &str = "sd";

/// Both servers, running. They stop when this is dropped, and also when this process is killed.
pub struct Servers {
    postgres: Postgres,
    rabbitmq: RabbitMq,
    // Last, so that the folder's lock is given back after the servers have stopped.
    folder: Folder,
}

impl Servers {
    /// Starts both servers in a folder, which is made if it is missing, and waits until they
    /// answer; what a previous run left in the folder is found again. Takes a few seconds. Missing
    /// packages are installed first where tests may ([`Consent::of_tests`]); other programs call
    /// [`packages::ensure`] before.
    ///
    /// As root, the servers run as the user `postgres`, since PostgreSQL refuses root; that user
    /// must be able to reach the folder.
    ///
    /// # Errors
    /// When another process has servers running in this folder, when packages are missing and
    /// can't be installed, or when a server does not come up, with the end of its log.
    pub fn start(dir: &Path) -> Result<Self> {
        let packages = packages::ensure(&[], &Consent::of_tests()?)?;
        let folder = Folder::open(dir)?;
        let password = folder.shared_secret("password")?;
        let [postgres_port, amqp, distribution, epmd, control] = ports::free()?;
        let rabbitmq = rabbitmq::Ports { amqp, distribution, epmd, control };
        let servers = Self {
            postgres: Postgres::new(&packages, &folder, password.clone(), postgres_port)?,
            rabbitmq: RabbitMq::new(&packages, &folder, password, rabbitmq)?,
            folder,
        };
        // RabbitMQ takes seconds, in which PostgreSQL comes up beside it.
        servers.rabbitmq.launch()?;
        servers.postgres.start()?;
        servers.rabbitmq.await_ready()?;
        Ok(servers)
    }

    /// PostgreSQL.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// RabbitMQ.
    #[must_use]
    pub fn rabbitmq(&self) -> &RabbitMq {
        &self.rabbitmq
    }

    /// Starts a PgBouncer before PostgreSQL, for tests, with settings of its own, a line each. The name
    /// is for its files.
    ///
    /// # Errors
    /// When it is missing and can't be installed, or does not come up, with the end of its log.
    pub fn start_pgbouncer(&self, name: &str, settings: &str) -> Result<PgBouncer> {
        PgBouncer::start(&self.folder, &self.postgres, name, settings)
    }

    /// Where the data, the logs and the passwords are.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Which of the servers has ended by itself, and how.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        let ended = self.postgres.ended().or_else(|| self.rabbitmq.ended())?;
        Some(format!("{ended} (its log is in {})", self.folder.path().display()))
    }
}

/// A private PostgreSQL without a RabbitMQ, for who has one already. It stops when this is dropped,
/// and also when this process is killed.
pub struct PostgresAlone {
    postgres: Postgres,
    // Last, so that the folder's lock is given back after the server has stopped.
    folder: Folder,
}

impl PostgresAlone {
    /// Starts it in a folder of its own, as [`Servers::start`] does both.
    ///
    /// # Errors
    /// The same.
    pub fn start(dir: &Path) -> Result<Self> {
        let packages = packages::ensure(&[], &Consent::of_tests()?)?;
        let folder = Folder::open(dir)?;
        let password = folder.shared_secret("password")?;
        let [port] = ports::free()?;
        let postgres = Postgres::new(&packages, &folder, password, port)?;
        let alone = Self { postgres, folder };
        alone.postgres.start()?;
        Ok(alone)
    }

    /// Starts a standby of it beside it, with the name that `synchronous_standby_names` may have.
    ///
    /// # Errors
    /// When the data can't be copied, or the standby does not come up, with the end of its log.
    pub fn start_standby(&self, name: &str) -> Result<Postgres> {
        let [port] = ports::free()?;
        self.postgres.standby(&self.folder, name, port)
    }

    /// The server.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Both are asked before either is waited for.
        self.postgres.ask_to_stop();
        self.rabbitmq.ask_to_stop();
        self.postgres.stop();
        self.rabbitmq.shut_down();
    }
}
