//! Messages that no gateway sends.

use anyhow::{Result, ensure};
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use shared::wire::message::UpdateMessage;

use super::System;

/// Publishes an update as a gateway does, whatever is in it, and waits for RabbitMQ's confirmation.
pub async fn publish(system: &System, update: &UpdateMessage) -> Result<()> {
    let connection = system.connect_to_rabbitmq().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let topology = system.topology().await?;
    let key = topology.routing_key(update.component.id.partition(topology.partitions));
    let properties = BasicProperties::default().with_message_id(update.id.to_string().into());
    let (exchange, body) = (topology.publish_exchange(), update.encode());
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish(exchange.into(), key.into(), options, &body, properties);
    ensure!(publish.await?.await?.is_ack(), "RabbitMQ did not take it");
    Ok(connection.close(200, "done".into()).await?)
}
