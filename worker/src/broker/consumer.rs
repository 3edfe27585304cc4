//! A worker's part in consuming: it joins the live workers, and runs one session with RabbitMQ after the other.

use std::{sync::Arc, time::Duration};

use lapin::Connection;
use shared::{
    amqp::{
        broker::{Broker, ConnectError},
        topology::Recorded,
    },
    database::Database,
    telemetry::chain,
};
use sqlx::PgConnection;
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    broken_queues::BrokenQueues, consume_error::ConsumeError, node_trial, replies::ReplySender,
};
use crate::{
    membership::Member,
    observe::{
        blockers::Blockers,
        readiness::{PURPOSE, Readiness},
    },
};

/// Time for finding the queues that can't be consumed.
const FIND_LIMIT: Duration = Duration::from_secs(30);

/// Consumes this worker's share of the partitions.
pub(crate) struct Consumer {
    pub(crate) broker: Broker,
    pub(crate) database: Mutex<Database>,
    /// Maximum number of updates in one transaction.
    pub(crate) batch: usize,
    /// Days that the record of each update is kept.
    pub(crate) inbox_days: u32,
    pub(crate) replies: ReplySender,
    /// The queues that can't be consumed.
    pub(crate) broken: BrokenQueues,
    /// Logs the sessions that have locked rows which updates need.
    pub(crate) blockers: Blockers,
    /// What this worker reports about itself.
    pub(crate) readiness: Arc<Readiness>,
    /// Whether the queues are sampled for metrics.
    pub(crate) is_measured: bool,
    /// Cancelled when the worker must stop after its last batch is committed and acknowledged.
    pub(crate) stop: CancellationToken,
    /// Cancelled when even that took too long.
    pub(crate) abandon: CancellationToken,
}

impl Consumer {
    /// Joins the live workers and consumes this worker's share, session by session, until it must stop or
    /// something fails.
    pub(crate) async fn take_part(&self) -> Result<(), ConsumeError> {
        let ended = self.join_and_consume().await;
        if let Err(error) = &ended {
            // Another one is used for a while.
            if error.is_of_the_node() {
                self.broker.lost(PURPOSE, &chain(error));
            }
            if error.is_of_a_queue() {
                tokio::select! {
                    () = self.find_broken_queues() => {}
                    () = self.stop.cancelled() => {}
                }
            }
        }
        ended
    }

    async fn join_and_consume(&self) -> Result<(), ConsumeError> {
        // Joins only once it could consume: a worker without RabbitMQ, or on a node that has lost the others
        // of its cluster, would block its share.
        let Some(mut connection) = self.connect().await? else { return Ok(()) };
        node_trial::consume(&connection, &self.database, &self.broken, &self.stop).await?;
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let member = Member::join(self.database.lock().await.options()).await?;
        let ended = loop {
            if let Err(error) = self.session(connection, &member).await {
                break Err(error);
            }
            connection = match self.connect().await {
                Ok(Some(connection)) => connection,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
        };
        member.leave().await;
        ended
    }

    /// Finds the queues of the recorded topology that can't be consumed, so that the next session leaves them out.
    async fn find_broken_queues(&self) {
        let finding = async {
            let read = async |database: &mut PgConnection| Recorded::read(database).await;
            // Without an answer they are looked for after the next failure.
            if let Ok(recorded) = self.database.lock().await.with(read).await {
                self.broken.find(&self.broker, &recorded.topology).await;
            }
        };
        drop(timeout(FIND_LIMIT, finding).await);
    }

    /// None when the worker must stop.
    async fn connect(&self) -> Result<Option<Connection>, ConnectError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(None),
            connected = self.broker.connect(PURPOSE) => connected.map(Some),
        }
    }
}
