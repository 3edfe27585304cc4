//! The exchanges and queues of status updates, and the record of their topology.
//!
//! The topology is recorded in the database, because a gateway and a worker that disagree about the
//! number of partitions would break the order of a component's updates. `worker topology` changes it:
//! gateways stop publishing, workers drain the old queues, and then all use new ones.

mod declare;

use std::{str::FromStr, time::Duration};

use sqlx::PgConnection;
use tokio::time::{sleep, timeout};

pub use self::declare::{ARGUMENTS, DeclareError};
use crate::{
    database::{ConnectOptions, SessionError, sqlstate, standbys},
    settings::{Settings, SettingsError},
    telemetry::chain,
    wire::message,
};

/// Pause between two attempts to reach the database.
const PAUSE: Duration = Duration::from_secs(1);
/// Time limit of one attempt.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// The largest number of partitions.
pub const MOST_PARTITIONS: u16 = 1024;

/// The exchanges and queues of status updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Its number, a part of every queue's name: another topology has other queues.
    pub version: i32,
    /// Number of queues that the components are distributed over.
    pub partitions: u16,
    /// Maximum length of a queue; further messages are refused.
    pub queue_limit: u32,
    /// Unacknowledged messages of one queue per worker. It is the same for all: requeued messages keep
    /// their order only among consumers with the same prefetch.
    pub prefetch: u16,
    /// The newest version of messages that gateways write.
    pub wire: u16,
    /// The version of the arguments that its queues are declared with: [`ARGUMENTS`] or an earlier one.
    pub arguments: u16,
}

/// The phase of a topology: what is permitted with its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Gateways publish, workers consume.
    Open,
    /// Workers drain the queues; gateways answer 503.
    Draining,
    /// Nobody publishes or consumes.
    Closed,
}

impl Phase {
    /// The word in the database.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }
}

impl FromStr for Phase {
    type Err = TopologyError;

    fn from_str(word: &str) -> Result<Self, TopologyError> {
        [Self::Open, Self::Draining, Self::Closed]
            .into_iter()
            .find(|phase| phase.word() == word)
            .ok_or_else(|| TopologyError::UnknownPhase(word.to_owned()))
    }
}

/// The record in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The exchanges and queues of status updates.
    pub topology: Topology,
    /// The phase.
    pub phase: Phase,
}

/// Why a process can't use the recorded topology.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// There is no record.
    #[error("the database is not prepared: run `worker migrate`")]
    Unprepared,
    /// `worker detach` was run: lists would not show what changes.
    #[error("the database was detached: run `worker migrate` to attach it again")]
    Detached,
    /// A setting differs from the record.
    #[error(
        "{name} is {setting}, but the database records {recorded}: leave {name} unset, or set it to {recorded}"
    )]
    Disagrees {
        /// The setting.
        name: &'static str,
        /// Its value.
        setting: u32,
        /// The record's value.
        recorded: u32,
    },
    /// The record is out of range.
    #[error("the recorded topology has {what} {value}, which is impossible")]
    Impossible {
        /// Which part.
        what: &'static str,
        /// Its value.
        value: i32,
    },
    /// Gateways write messages that this program can't read.
    #[error(
        "the database records version {0} of messages, and this program knows versions up to {newest}: \
        start a newer release, or run the newer one's `worker topology change --wire {newest}` first",
        newest = message::NEWEST
    )]
    UnknownWire(u16),
    /// The queues have arguments that this program does not declare.
    #[error(
        "the database records version {0} of the queues' arguments, and this program knows versions up to \
        {newest}: start a newer release, or run the newer one's `worker topology change --arguments \
        {newest}` first",
        newest = ARGUMENTS
    )]
    UnknownArguments(u16),
    /// The record has a phase that this program does not know.
    #[error("the recorded topology has the phase `{0}`, which this program does not know")]
    UnknownPhase(String),
    /// The settings can't be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The database's sessions can't be used.
    #[error(transparent)]
    Session(SessionError),
    /// The database is a standby: its record is outdated, and a lock on it has no effect on the primary.
    #[error("the database is a standby (in recovery): connect to the primary, or promote it")]
    Standby,
    /// The database did not answer.
    #[error("the topology can't be read from the database")]
    Database(#[from] sqlx::Error),
}

impl Topology {
    /// The first topology of a database, from the settings.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        // The ranges fit the narrower types.
        Ok(Self {
            version: 1,
            partitions: settings.number("SDB_PARTITIONS", 1..=MOST_PARTITIONS.into())? as u16,
            queue_limit: settings.number("SDB_QUEUE_LIMIT", 1..=100_000_000)?,
            prefetch: settings.number("SDB_PREFETCH", 1..=10_000)? as u16,
            wire: message::NEWEST,
            arguments: ARGUMENTS,
        })
    }

    /// The recorded topology, checked against the settings that are set. Waits until the database
    /// answers, which may be started later.
    ///
    /// # Errors
    /// When there is no record, when it differs from a setting, or when sessions of the database lack
    /// required properties.
    pub async fn read_once_up(
        database: &ConnectOptions,
        settings: &Settings,
    ) -> Result<Recorded, TopologyError> {
        database.log_ignored();
        let mut said = String::new();
        loop {
            let read = async {
                let mut connection = database.connect_directly().await?;
                let recorded = Recorded::read(&mut connection).await?;
                recorded.topology.check(settings)?;
                let are_several = database.servers().are_several();
                standbys::warn_if_asynchronous(&mut connection, are_several).await;
                Ok(recorded)
            };
            let silent = sqlstate::timed_out;
            match timeout(READ_LIMIT, read).await.unwrap_or_else(|_| Err(silent().into())) {
                Err(error @ (TopologyError::Database(_) | TopologyError::Standby)) => {
                    if let TopologyError::Database(error) = &error
                        && let Some(refusal) = SessionError::of(error).filter(|e| e.is_lasting())
                    {
                        return Err(TopologyError::Session(refusal.clone()));
                    }
                    let reason = chain(&error);
                    if reason != said {
                        tracing::warn!(reason, "waiting for the database");
                        said = reason;
                    }
                    sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// Checks it against the settings that are set.
    ///
    /// # Errors
    /// When one differs.
    pub fn check(&self, settings: &Settings) -> Result<(), TopologyError> {
        let wanted = Self::from_settings(settings)?;
        for (name, setting, recorded) in [
            ("SDB_PARTITIONS", u32::from(wanted.partitions), u32::from(self.partitions)),
            ("SDB_QUEUE_LIMIT", wanted.queue_limit, self.queue_limit),
            ("SDB_PREFETCH", u32::from(wanted.prefetch), u32::from(self.prefetch)),
        ] {
            if settings.is_set(name) && setting != recorded {
                return Err(TopologyError::Disagrees { name, setting, recorded });
            }
        }
        Ok(())
    }

    /// The exchange of the updates: it exists while updates may be published. Older releases publish to
    /// it; its alternate exchange routes unroutable updates to the dead-letter queue.
    #[must_use]
    pub fn exchange(&self) -> String {
        format!("sdb.updates.v{}", self.version)
    }

    /// The exchange that updates are published to. It has no alternate exchange, so that RabbitMQ returns
    /// unroutable updates.
    #[must_use]
    pub fn publish_exchange(&self) -> String {
        format!("sdb.publish.v{}", self.version)
    }

    /// The routing key of a partition.
    #[must_use]
    pub fn routing_key(&self, partition: u16) -> String {
        format!("p{partition}")
    }

    /// The number of partitions and their limit, for messages to an operator.
    #[must_use]
    pub fn sizes(&self) -> String {
        let plural = if self.partitions == 1 { "" } else { "s" };
        format!("{} partition{plural} of at most {} messages", self.partitions, self.queue_limit)
    }

    /// The queue of a partition.
    #[must_use]
    pub fn queue(&self, partition: u16) -> String {
        format!("sdb.updates.v{}.p{partition}", self.version)
    }

    /// The queue of dead-lettered messages, and of unroutable ones of older releases. It is normally
    /// empty.
    #[must_use]
    pub fn dead_letter_queue(&self) -> String {
        format!("sdb.dead.v{}", self.version)
    }

    /// All queues.
    pub fn queues(self) -> impl Iterator<Item = String> {
        let partitions = (0..self.partitions).map(move |partition| self.queue(partition));
        partitions.chain([self.dead_letter_queue()])
    }
}

impl Recorded {
    /// The current record of the primary; a standby's record may be outdated.
    ///
    /// # Errors
    /// When there is no record, when the database is a standby, or when it fails.
    pub async fn read(database: &mut PgConnection) -> Result<Self, TopologyError> {
        let read: Result<Option<Row>, sqlx::Error> = sqlx::query_as(
            "SELECT version, partitions, queue_limit, prefetch, wire, arguments, phase, pg_is_in_recovery(),
                EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = to_regclass('incident') AND tgname = 'sdb_touch')
            -- The newest of what `worker migrate` makes and these programs can't do without.
            FROM sdb_topology WHERE to_regclass('sdb_report') IS NOT NULL
                AND to_regprocedure('sdb_readable(text)') IS NOT NULL",
        )
        .fetch_optional(&mut *database)
        .await;
        let row = match read {
            Ok(row) => row,
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(row) = row else { return Err(unprepared(database).await) };
        let (version, partitions, queue_limit, prefetch, wire, arguments, phase, standby, attached) =
            row;
        if standby {
            return Err(TopologyError::Standby);
        }
        if !attached {
            return Err(TopologyError::Detached);
        }
        let impossible = |what, value| TopologyError::Impossible { what, value };
        let topology = Topology {
            version,
            partitions: u16::try_from(partitions)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| impossible("partitions", partitions))?,
            queue_limit: u32::try_from(queue_limit)
                .map_err(|_| impossible("queue_limit", queue_limit))?,
            prefetch: u16::try_from(prefetch).map_err(|_| impossible("prefetch", prefetch))?,
            wire: u16::try_from(wire).map_err(|_| impossible("wire", wire.into()))?,
            arguments: u16::try_from(arguments)
                .map_err(|_| impossible("arguments", arguments.into()))?,
        };
        if topology.wire > message::NEWEST {
            return Err(TopologyError::UnknownWire(topology.wire));
        }
        if topology.arguments > ARGUMENTS {
            return Err(TopologyError::UnknownArguments(topology.arguments));
        }
        Ok(Self { topology, phase: phase.parse()? })
    }
}

/// The record's columns, whether the database is a standby, and whether it is attached.
type Row = (i32, i32, i32, i32, i16, i16, String, bool, bool);

/// Whether a table or column does not exist.
fn is_missing(error: &sqlx::Error) -> bool {
    let missing = [sqlstate::UNDEFINED_TABLE, sqlstate::UNDEFINED_COLUMN];
    missing.into_iter().any(|code| sqlstate::is(error, code))
}

/// Why there is no record. A standby may not have it yet.
async fn unprepared(database: &mut PgConnection) -> TopologyError {
    let standby = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(database).await;
    // Not possible inside a transaction, which the missing table has aborted.
    if standby.unwrap_or(false) { TopologyError::Standby } else { TopologyError::Unprepared }
}
