//! The channels of a link, in confirm mode.

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use lapin::{Channel, Connection, options::ConfirmSelectOptions};

/// Creates the channels of a pool, in confirm mode. Each lane takes one once it has something to send.
pub(super) struct Channels(pub(super) Connection);

pub(super) type ChannelPool = managed::Pool<Channels>;

impl managed::Manager for Channels {
    type Type = Channel;
    type Error = lapin::Error;

    async fn create(&self) -> Result<Channel, lapin::Error> {
        let channel = self.0.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
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
