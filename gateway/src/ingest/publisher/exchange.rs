//! The exchange of a link, by which what the link has sent can be refused later.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::FieldTable,
};
use shared::{
    amqp::{
        broker::{Broker, ConnectError},
        topology::Topology,
    },
    process::supervise,
    telemetry::chain,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Time for deleting an exchange. RabbitMQ takes milliseconds, unless a node of a cluster stalls.
const FENCE_LIMIT: Duration = Duration::from_secs(2);

/// Pause before an exchange is deleted again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Why an exchange was not deleted.
#[derive(Debug, thiserror::Error)]
pub(super) enum FenceError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    /// RabbitMQ is connected, and does not do it: a node of a cluster stalls.
    #[error("RabbitMQ did not answer in time")]
    Silent,
}

/// An exchange that only one link publishes to. It is bound to the exchange of updates, and deleted
/// automatically with that.
#[derive(Clone, Debug)]
pub(super) struct LinkExchange {
    pub(super) name: String,
}

impl LinkExchange {
    /// Declares a new one.
    pub(super) async fn declare(
        channel: &Channel,
        topology: &Topology,
    ) -> Result<Self, lapin::Error> {
        let name = format!("sdb.gateway.{}", Uuid::new_v4());
        let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
        let (exchange, none) = (name.as_str().into(), FieldTable::default);
        channel.exchange_declare(exchange, ExchangeKind::Fanout, options, none()).await?;
        let options = ExchangeBindOptions::default();
        let (updates, exchange) = (topology.publish_exchange().into(), name.as_str().into());
        channel.exchange_bind(updates, exchange, "".into(), options, none()).await?;
        Ok(Self { name })
    }

    /// Deletes it: what its link has sent and RabbitMQ has not read yet is refused.
    ///
    /// # Errors
    /// When RabbitMQ can't be reached, refuses, or does not answer.
    pub(super) async fn delete(&self, broker: &Broker) -> Result<(), FenceError> {
        delete_all(broker, &mut vec![self.clone()]).await
    }
}

/// Deletes the exchanges of links that were given up, as soon as RabbitMQ does it.
#[derive(Clone)]
pub(super) struct Later(mpsc::UnboundedSender<LinkExchange>);

impl Later {
    /// Starts the task that deletes them.
    pub(super) fn start(broker: Broker) -> (Self, AbortOnDropHandle<()>) {
        let (later, to_delete) = mpsc::unbounded_channel();
        let deleting = supervise::keep("exchanges", delete_later(broker, to_delete));
        (Self(later), AbortOnDropHandle::new(deleting))
    }

    pub(super) fn delete(&self, exchange: &LinkExchange) {
        // The receiver exists as long as the process does not stop.
        drop(self.0.send(exchange.clone()));
    }
}

async fn delete_later(broker: Broker, mut later: mpsc::UnboundedReceiver<LinkExchange>) {
    let mut exchanges = Vec::new();
    while later.recv_many(&mut exchanges, 16).await > 0 {
        while let Err(error) = delete_all(&broker, &mut exchanges).await {
            tracing::debug!(reason = chain(&error), "an exchange can't be deleted: trying again");
            sleep(RETRY_PAUSE).await;
            while let Ok(another) = later.try_recv() {
                exchanges.push(another);
            }
        }
    }
    // The last link is closed.
    std::future::pending().await
}

/// Deletes exchanges, on one connection; those that were not deleted remain in the list.
///
/// # Errors
/// As [`LinkExchange::delete`].
pub(super) async fn delete_all(
    broker: &Broker,
    exchanges: &mut Vec<LinkExchange>,
) -> Result<(), FenceError> {
    let connection = broker.connect("gateway: fence").await?;
    while let Some(exchange) = exchanges.last() {
        let deleting = async {
            let channel = connection.create_channel().await?;
            let (name, options) = (exchange.name.as_str().into(), ExchangeDeleteOptions::default());
            channel.exchange_delete(name, options).await?;
            channel.close(200, "deleted".into()).await
        };
        timeout(FENCE_LIMIT, deleting).await.map_err(|_| FenceError::Silent)??;
        exchanges.pop();
    }
    // All are deleted, whatever becomes of the connection.
    drop(timeout(FENCE_LIMIT, connection.close(200, "done".into())).await);
    Ok(())
}
