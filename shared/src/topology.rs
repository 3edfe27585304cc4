//! The exchange and queues that carry status updates, and the record of their shape.
//!
//! The shape is recorded in the database, since a gateway and a worker that disagree about the
//! number of partitions would break the order of a component's updates. `worker topology` changes
//! it: gateways stop, workers empty the old queues, and all go on with new ones.

use std::{str::FromStr, time::Duration};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};

use crate::{
    database::{ConnectOptions, SessionError},
    settings::{Settings, SettingsError},
    telemetry::chain,
};

/// Between two tries to reach the database.
const PAUSE: Duration = Duration::from_secs(1);
/// Time for one try.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Deliveries after which RabbitMQ gives a message up. A worker parks what can't be applied, so
/// only a message that kills every worker gets there. One large number, since RabbitMQ 3.10 drops
/// messages at -1 and a crash counts against all that were prefetched.
const DELIVERY_LIMIT: i32 = 1_000_000;

/// The shape of the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Its number, part of every queue's name: another shape has other queues.
    pub version: i32,
    /// Queues that the components are spread over.
    pub partitions: u16,
    /// Updates that one queue holds before it refuses more.
    pub queue_limit: u32,
    /// Updates of one queue that a worker holds. The same everywhere: returned messages keep their
    /// order only between consumers with the same prefetch.
    pub prefetch: u16,
}

/// What may be done with the queues of a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Gateways publish, workers consume.
    Open,
    /// Workers empty the queues; gateways answer 503.
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

/// What the database records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The shape of the queues.
    pub topology: Topology,
    /// What may be done with them.
    pub phase: Phase,
}

/// Why a process can't take the recorded topology.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// There is no record.
    #[error("the database is not prepared: run `worker migrate`")]
    Unprepared,
    /// `worker detach` was run: lists would not show what changes.
    #[error("the database was detached: run `worker migrate` to attach it again")]
    Detached,
    /// The settings disagree with the record.
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
    /// The record has a phase that this program does not know.
    #[error("the recorded topology has the phase `{0}`, which this program does not know")]
    UnknownPhase(String),
    /// The settings can't be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The database's sessions can't be used.
    #[error(transparent)]
    Session(SessionError),
    /// The database did not answer.
    #[error("the topology can't be read from the database")]
    Database(#[from] sqlx::Error),
}

/// Why the queues could not be declared.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// The shape of the queues is being changed, or was.
    #[error("the shape of the queues is being changed")]
    Changed,
    /// The record can't be taken.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// RabbitMQ refused.
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
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
            partitions: settings.number("SDB_PARTITIONS", 1..=1024)? as u16,
            queue_limit: settings.number("SDB_QUEUE_LIMIT", 1..=100_000_000)?,
            prefetch: settings.number("SDB_PREFETCH", 1..=10_000)? as u16,
        })
    }

    /// The recorded topology, as soon as the database answers, checked against the settings that
    /// are set: the database may be started later than we are.
    ///
    /// # Errors
    /// When there is no record, or it disagrees with a setting, or when sessions of the database
    /// are not what they must be.
    pub async fn read_once_up(
        database: &ConnectOptions,
        settings: &Settings,
    ) -> Result<Recorded, TopologyError> {
        database.log_passed_over();
        let mut said = String::new();
        loop {
            let read = async {
                let mut connection = database.connect_directly().await?;
                let recorded = Recorded::read(&mut connection).await?;
                recorded.topology.check(settings)?;
                Ok(recorded)
            };
            let silent = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
            match timeout(READ_LIMIT, read).await.unwrap_or_else(|_| Err(silent().into())) {
                Err(TopologyError::Database(error)) => {
                    if let Some(refusal) = SessionError::of(&error).filter(|e| e.is_lasting()) {
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
    /// When one disagrees.
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

    /// The exchange that gateways publish to.
    #[must_use]
    pub fn exchange(&self) -> String {
        format!("sdb.updates.v{}", self.version)
    }

    /// The routing key of a partition.
    #[must_use]
    pub fn routing_key(&self, partition: u16) -> String {
        format!("p{partition}")
    }

    /// The queue of a partition.
    #[must_use]
    pub fn queue(&self, partition: u16) -> String {
        format!("sdb.updates.v{}.p{partition}", self.version)
    }

    /// Where RabbitMQ puts what it gave up, or found no queue for: the last net, empty unless
    /// something is wrong.
    #[must_use]
    pub fn dead_letter_queue(&self) -> String {
        format!("sdb.dead.v{}", self.version)
    }

    /// Declares everything, provided that the database still records this topology as open, and
    /// holds it to that meanwhile: nobody may make queues that others have just emptied and left.
    /// Declaring again what stands changes nothing.
    ///
    /// # Errors
    /// When it is not the recorded one any more, when the database fails, and when RabbitMQ refuses,
    /// for one because something of that name has another shape.
    pub async fn declare(
        &self,
        channel: &Channel,
        database: &mut PgConnection,
    ) -> Result<(), DeclareError> {
        let mut transaction = database.begin().await?;
        // Many queues take RabbitMQ longer than a transaction may usually be idle.
        sqlx::query("SET LOCAL idle_in_transaction_session_timeout = '60s'")
            .execute(&mut *transaction)
            .await?;
        sqlx::query("SELECT pg_advisory_xact_lock_shared(hashtext('sdb_topology'))")
            .execute(&mut *transaction)
            .await?;
        let recorded = Recorded::read(&mut transaction).await?;
        if recorded != (Recorded { topology: *self, phase: Phase::Open }) {
            return Err(DeclareError::Changed);
        }
        self.declare_all(channel).await?;
        Ok(transaction.commit().await?)
    }

    /// Whether the exchange stands, which it does for as long as updates may be published; for when
    /// the database can't be asked. Where it does not, RabbitMQ closes the channel.
    ///
    /// # Errors
    /// When it does not stand, or RabbitMQ can't be asked.
    pub async fn expect_exchange(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let (exchange, arguments) = (self.exchange(), FieldTable::default());
        channel.exchange_declare(exchange.into(), ExchangeKind::Direct, passive, arguments).await
    }

    async fn declare_all(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let dead_queue = self.dead_letter_queue();
        channel
            .exchange_declare(
                dead_queue.as_str().into(),
                ExchangeKind::Fanout,
                durable,
                FieldTable::default(),
            )
            .await?;
        let mut dead = FieldTable::default();
        dead.insert("x-queue-type".into(), text("quorum"));
        // From 4.0 on RabbitMQ has a limit of 20 where none is named, and this queue is the last.
        dead.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        self.declare_queue(channel, &dead_queue, &dead_queue, "", dead).await?;

        // An update whose queue someone deleted goes there, too. To have it returned instead would
        // not do: lapin may hand the return to another publisher of the channel.
        let mut arguments = FieldTable::default();
        arguments.insert("alternate-exchange".into(), text(&dead_queue));
        channel
            .exchange_declare(self.exchange().into(), ExchangeKind::Direct, durable, arguments)
            .await?;

        for partition in 0..self.partitions {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), text("quorum"));
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
            arguments.insert("x-dead-letter-exchange".into(), text(&dead_queue));
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-overflow".into(), text("reject-publish"));
            arguments
                .insert("x-max-length".into(), AMQPValue::LongLongInt(self.queue_limit.into()));
            let (queue, key) = (self.queue(partition), self.routing_key(partition));
            self.declare_queue(channel, &queue, &self.exchange(), &key, arguments).await?;
        }
        Ok(())
    }

    async fn declare_queue(
        &self,
        channel: &Channel,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), lapin::Error> {
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.into(), durable, arguments).await?;
        channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                routing_key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
    }
}

impl Recorded {
    /// What the database records now.
    ///
    /// # Errors
    /// When there is no record, or the database fails.
    pub async fn read(database: &mut PgConnection) -> Result<Self, TopologyError> {
        let row: Option<(i32, i32, i32, i32, String, bool)> = sqlx::query_as(
            "SELECT version, partitions, queue_limit, prefetch, phase, EXISTS (SELECT FROM pg_trigger
                WHERE tgrelid = to_regclass('incident') AND tgname = 'sdb_touch') AS attached
            FROM sdb_topology",
        )
        .fetch_optional(database)
        .await
        .or_else(|error| {
            match error.as_database_error().and_then(|e| e.code()).as_deref() {
                Some(UNDEFINED_TABLE | UNDEFINED_COLUMN) => Ok(None),
                _ => Err(error),
            }
        })?;
        let (version, partitions, queue_limit, prefetch, phase, attached) =
            row.ok_or(TopologyError::Unprepared)?;
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
        };
        Ok(Self { topology, phase: phase.parse()? })
    }
}

/// SQLSTATE of a column that is not there: a migration is missing.
const UNDEFINED_COLUMN: &str = "42703";
/// SQLSTATE of a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
