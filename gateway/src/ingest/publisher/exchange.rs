//! The exchange of a link, by which what the link has sent can be refused later.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::FieldTable,
};
use shared::{
    broker::{Broker, ConnectError},
    topology::Topology,
};
use tokio::time::timeout;
use uuid::Uuid;

/// Time for deleting an exchange. RabbitMQ takes milliseconds, unless a node of a cluster stalls.
const FENCE_LIMIT: Duration = Duration::from_secs(2);

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
