//! The channels of a link, in confirm mode. Each also receives the replies to what is published on it.

use std::sync::Arc;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    options::{BasicConsumeOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use shared::{process::supervise, telemetry::chain, throttled, wire::message::ReplyMessage};

use crate::ingest::pending::PendingRequests;

/// RabbitMQ's direct reply-to: replies go to the channel that the message was published on. It needs no
/// queue, so it works while a node of a cluster stalls, and nothing can be declared.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Creates the channels of a pool. Each lane takes one once it has something to send.
pub(super) struct Channels {
    pub(super) connection: Connection,
    pub(super) pending: Arc<PendingRequests>,
}

pub(super) type ChannelPool = managed::Pool<Channels>;

impl managed::Manager for Channels {
    type Type = Channel;
    type Error = lapin::Error;

    async fn create(&self) -> Result<Channel, lapin::Error> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let replies = channel
            .basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default())
            .await?;
        // It ends with the channel.
        supervise::spawn("replies", receive(replies, self.pending.clone()));
        Ok(channel)
    }

    async fn recycle(&self, channel: &mut Channel, _: &Metrics) -> RecycleResult<lapin::Error> {
        if channel.status().connected() {
            Ok(())
        } else {
            Err(RecycleError::message("the channel is closed"))
        }
    }
}

/// Delivers replies to pending requests until the channel ends.
async fn receive(mut replies: Consumer, pending: Arc<PendingRequests>) {
    while let Some(Ok(delivery)) = replies.next().await {
        match ReplyMessage::decode(&delivery.data) {
            // Not awaited here: the next reply need not wait for this one's incidents.
            Ok((reply, left_out)) => {
                if left_out > 0 {
                    let line = "results of a newer worker can't be read: those requests get 202";
                    throttled!(warn, "", left_out, "{line}");
                }
                let pending = pending.clone();
                tokio::spawn(async move { pending.deliver(reply.results).await });
            }
            // Sent by a worker of another version: the pending request gets 202 and finds the receipt.
            Err(error) => {
                let reason = chain(&error);
                throttled!(warn, &reason, reason, "a reply can't be read");
            }
        }
    }
}
