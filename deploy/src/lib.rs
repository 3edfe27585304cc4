//! Runs the whole system on one machine, for a newcomer and for the tests: finds or installs
//! PostgreSQL and RabbitMQ, starts private servers in a folder of their own, builds the programs.
//! Production needs none of this.

pub mod binaries;
pub mod packages;
pub mod process;
pub mod servers;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Prints a line about progress to standard error. A closed pipe, as with `| head`, is not an error.
pub fn say(line: &str) {
    writeln!(io::stderr(), "deploy: {line}").ok();
}

/// The folder of the checkout that this was built from.
#[must_use]
pub fn checkout() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where the servers of this checkout keep their data: one folder a user and checkout.
///
/// It is outside the checkout, because a checkout in a home of mode 700 is not accessible to the user
/// that servers started by root run as.
#[must_use]
pub fn data_dir() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    checkout().hash(&mut hasher);
    let user = nix::unistd::geteuid();
    let short = hasher.finish() & 0xffff_ffff;
    PathBuf::from(format!("/var/tmp/status-dashboard-{user}-{short:08x}"))
}

/// The names of the settings that this crate reads or passes on.
pub mod settings {
    /// The database; set together with [`AMQP`] to use existing servers.
    pub const DATABASE: &str = "SDB_DATABASE_URI";
    /// The Python dashboard's name for [`DATABASE`].
    pub const DATABASE_ALIAS: &str = "SDB_SQLALCHEMY_DATABASE_URI";
    /// The broker.
    pub const AMQP: &str = "SDB_AMQP_URI";
    /// The key that signs tokens.
    pub const SECRET_KEY: &str = "SDB_SECRET_KEY";
    /// Where the gateway listens.
    pub const BIND: &str = "SDB_BIND";
    /// Where a process serves health and metrics.
    pub const ADMIN: &str = "SDB_ADMIN_ADDRESS";
}

/// A setting from the environment; one that is blank counts as not set.
#[must_use]
pub fn setting(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.trim().is_empty())?;
    // White space may be a part of a key: the gateway decides.
    Some(if name == settings::SECRET_KEY { value } else { value.trim().to_owned() })
}
