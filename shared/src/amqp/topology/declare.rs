//! Declares the exchanges and queues of a topology.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use sqlx::{Connection, PgConnection};

use super::{Phase, Recorded, Topology, TopologyError};

/// Number of deliveries after which RabbitMQ dead-letters a message. Workers park what can't be applied,
/// so only a message that kills every worker reaches it. It is large, because RabbitMQ 3.10 drops
/// messages at -1, and a crash counts for all prefetched messages.
const DELIVERY_LIMIT: i32 = 1_000_000;

/// The newest version of the arguments that queues are declared with. RabbitMQ refuses a declaration with
/// other arguments than a queue has, so each topology keeps its version.
pub const ARGUMENTS: u16 = 3;

/// The first version in which leaders are spread over the nodes of a cluster; before, all are on the node that
/// the queues were declared on.
const BALANCED: u16 = 2;

/// The first version in which the queues of partitions have a limit in bytes.
const LIMITED_BYTES: u16 = 3;

/// Bytes for each message that a queue may hold. A full message of usual updates has some 11 KiB, the largest one
/// 32 KiB.
const BYTES_EACH: i64 = 16 * 1024;

const DURABLE: ExchangeDeclareOptions = ExchangeDeclareOptions {
    passive: false,
    durable: true,
    auto_delete: false,
    internal: false,
    nowait: false,
};

/// Why the queues could not be declared.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// The topology is being changed, or was.
    #[error("the topology is being changed")]
    Changed,
    /// The record can't be used.
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
    /// Declares everything, if the database still records this topology as open, and locks the record
    /// meanwhile: queues that were just drained must not be created again. Declaring what exists changes
    /// nothing.
    ///
    /// # Errors
    /// When it is no longer the recorded one, when the database fails or is a standby, and when RabbitMQ
    /// refuses, for example because of different arguments.
    pub async fn declare(
        &self,
        channel: &Channel,
        database: &mut PgConnection,
    ) -> Result<(), DeclareError> {
        let mut transaction = database.begin().await?;
        // Declaring many queues can take longer than the usual limit for idle transactions.
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

    /// Declares the queues of a topology that is about to be recorded, for the command that holds the lock to do that.
    /// Updates can't reach them yet: the exchanges follow under the lock on the record, when it is recorded.
    ///
    /// # Errors
    /// When RabbitMQ refuses.
    pub async fn declare_queues(&self, channel: &Channel) -> Result<(), lapin::Error> {
        self.declare_dead_letters(channel).await?;
        for partition in 0..self.partitions {
            self.declare_partition(channel, partition).await?;
        }
        Ok(())
    }

    /// Checks that the exchanges exist, which they do while updates may be published; for use while the
    /// database is unavailable. If one does not exist, RabbitMQ closes the channel.
    ///
    /// # Errors
    /// When one does not exist, or RabbitMQ is unavailable.
    pub async fn expect_exchanges(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
        // An older `worker topology change` deletes the first one only.
        for exchange in [self.exchange(), self.publish_exchange()] {
            let arguments = FieldTable::default();
            channel
                .exchange_declare(exchange.into(), ExchangeKind::Direct, passive, arguments)
                .await?;
        }
        Ok(())
    }

    /// The number of messages from which a queue that refuses one is taken to be full. A full queue takes messages
    /// again at four fifths of its limit; where that is one of bytes, large messages are fewer.
    #[must_use]
    pub fn full_from(&self) -> u32 {
        let part = if self.arguments >= LIMITED_BYTES {
            self.queue_limit / 8
        } else {
            self.queue_limit / 4 * 3
        };
        part.max(1)
    }

    async fn declare_all(&self, channel: &Channel) -> Result<(), lapin::Error> {
        self.declare_dead_letters(channel).await?;

        // Arguments never change: a declaration with different arguments would be refused.
        let mut arguments = FieldTable::default();
        arguments.insert("alternate-exchange".into(), text(&self.dead_letter_queue()));
        channel
            .exchange_declare(self.exchange().into(), ExchangeKind::Direct, DURABLE, arguments)
            .await?;
        let (publish_exchange, none) = (self.publish_exchange(), FieldTable::default());
        channel
            .exchange_declare(publish_exchange.into(), ExchangeKind::Direct, DURABLE, none)
            .await?;

        for partition in 0..self.partitions {
            self.declare_partition(channel, partition).await?;
            let (queue, key) = (self.queue(partition), self.routing_key(partition));
            bind(channel, &queue, &self.exchange(), &key).await?;
            bind(channel, &queue, &self.publish_exchange(), &key).await?;
        }
        Ok(())
    }

    async fn declare_dead_letters(&self, channel: &Channel) -> Result<(), lapin::Error> {
        // The exchange has the same name.
        let queue = self.dead_letter_queue();
        let (exchange, none) = (queue.as_str().into(), FieldTable::default());
        channel.exchange_declare(exchange, ExchangeKind::Fanout, DURABLE, none).await?;
        let mut arguments = self.quorum();
        // Since 4.0 RabbitMQ has a default limit of 20, but this queue has no dead-letter queue.
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        declare_queue(channel, &queue, arguments).await?;
        bind(channel, &queue, &queue, "").await
    }

    async fn declare_partition(
        &self,
        channel: &Channel,
        partition: u16,
    ) -> Result<(), lapin::Error> {
        let mut arguments = self.quorum();
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        arguments.insert("x-dead-letter-exchange".into(), text(&self.dead_letter_queue()));
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(self.queue_limit.into()));
        if self.arguments >= LIMITED_BYTES {
            let bytes = i64::from(self.queue_limit) * BYTES_EACH;
            arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
        }
        declare_queue(channel, &self.queue(partition), arguments).await
    }

    /// The arguments that all queues have.
    fn quorum(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("quorum"));
        if self.arguments >= BALANCED {
            arguments.insert("x-queue-leader-locator".into(), text("balanced"));
        }
        arguments
    }
}

async fn declare_queue(
    channel: &Channel,
    queue: &str,
    arguments: FieldTable,
) -> Result<(), lapin::Error> {
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, arguments).await?;
    Ok(())
}

async fn bind(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    routing_key: &str,
) -> Result<(), lapin::Error> {
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

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}
