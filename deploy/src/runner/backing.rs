//! Database and broker: our own, or those that the settings name.

use std::path::Path;

use anyhow::{Context, Result, bail};
use deploy::{
    packages::{self, Consent},
    say,
    servers::{DEFAULT_NAME, Folder, Servers},
    setting, settings,
};

use super::{Stop, environment};

/// The servers to use, and a folder to keep secrets in.
pub(super) struct Backing {
    /// Where the database is.
    pub(super) database: String,
    /// Where the broker is.
    pub(super) amqp: String,
    /// What tokens are signed with, if the settings have it.
    secret_key: Option<String>,
    kind: Kind,
}

enum Kind {
    /// Private servers, whose folder is theirs.
    Private(Box<Servers>),
    /// Servers of the user's own.
    Own(Folder),
}

impl Backing {
    /// Starts private servers, unless the settings name others.
    pub(super) fn find(data: &Path, install_packages: bool, stop: &Stop) -> Result<Self> {
        if environment::names_private_servers() {
            say(
                "this shell has read the environment file of an earlier start: its addresses and its \
                 secret key are ignored",
            );
            return Self::private(data, install_packages, None, stop);
        }
        refuse_files()?;
        let secret_key = setting(settings::SECRET_KEY);
        let database = setting(settings::DATABASE).or_else(|| setting(settings::DATABASE_ALIAS));
        match (database, setting(settings::AMQP)) {
            (Some(database), Some(amqp)) => {
                say("using the PostgreSQL and RabbitMQ that the settings name");
                let kind = Kind::Own(Folder::open_without_servers(data)?);
                Ok(Self { database, amqp, secret_key, kind })
            }
            (Some(_), None) | (None, Some(_)) => bail!(
                "only one of {} and {} is set: set both to use your own servers, or neither to \
                 have private ones started",
                settings::DATABASE,
                settings::AMQP
            ),
            (None, None) => Self::private(data, install_packages, secret_key, stop),
        }
    }

    fn private(
        data: &Path,
        install_packages: bool,
        secret_key: Option<String>,
        stop: &Stop,
    ) -> Result<Self> {
        say("looking for the programs of PostgreSQL and RabbitMQ");
        let abandoned = || stop.is_asked();
        let consent =
            if install_packages { Consent::Given } else { Consent::of_person(&abandoned)? };
        packages::ensure(&[], &consent)?;
        stop.check()?;
        say(&format!("starting private servers, with their data and logs in {}", data.display()));
        let servers = Servers::start(data)?;
        stop.check()?;
        let (database, amqp) = (servers.postgres().uri(), servers.rabbitmq().uri());
        Ok(Self { database, amqp, secret_key, kind: Kind::Private(Box::new(servers)) })
    }

    /// Whether the servers are private ones of ours, and so their database is ours to change.
    pub(super) fn is_private(&self) -> bool {
        matches!(self.kind, Kind::Private(_))
    }

    /// Whether the prepared database is a private one that has no component. Only such a one gets the
    /// sample catalogue unasked: it must not be mixed with an operator's.
    pub(super) fn is_new(&self) -> Result<bool> {
        self.answers_yes("select not exists (select from component)")
    }

    /// Whether the prepared database is a private one that has the first component of the sample
    /// catalogue, which the update to paste names.
    pub(super) fn has_samples(&self) -> Result<bool> {
        self.answers_yes("select exists (select from component where name = 'Object Storage')")
    }

    /// What a private database answers; no when it is the user's own.
    fn answers_yes(&self, query: &str) -> Result<bool> {
        match &self.kind {
            Kind::Private(servers) => {
                let answer = servers.postgres().psql(DEFAULT_NAME, query);
                Ok(answer.context("the components can't be read")? == "t")
            }
            Kind::Own(_) => Ok(false),
        }
    }

    /// Which of the private servers has ended by itself, and how.
    pub(super) fn ended(&self) -> Option<String> {
        match &self.kind {
            Kind::Private(servers) => servers.ended(),
            Kind::Own(_) => None,
        }
    }

    /// Where secrets and the environment file are.
    pub(super) fn folder(&self) -> &Folder {
        match &self.kind {
            Kind::Private(servers) => servers.folder(),
            Kind::Own(folder) => folder,
        }
    }

    /// The key that signs tokens.
    pub(super) fn secret_key(&self) -> Result<String> {
        match &self.secret_key {
            Some(key) => Ok(key.clone()),
            None => self.folder().secret("secret-key"),
        }
    }
}

/// Stops at a secret in a file. The programs would read it, but what is started here gets its secrets as
/// variables, and they refuse one that has both.
fn refuse_files() -> Result<()> {
    for name in [settings::DATABASE, settings::DATABASE_ALIAS, settings::AMQP, settings::SECRET_KEY]
    {
        let file = format!("{name}_FILE");
        if setting(&file).is_some() {
            bail!("{file} is set, but `cargo run` does not read it: set {name} instead");
        }
    }
    Ok(())
}
