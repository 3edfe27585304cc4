//! Tries the nodes of RabbitMQ, so that one that is away is reported although no connection needs it: each queue
//! lacks a copy then.

use std::time::Duration;

use shared::{amqp::broker::Broker, telemetry::metrics::WORKER};
use tokio::time::sleep;

use crate::membership::Share;

const EVERY: Duration = Duration::from_secs(30);
/// What the connections are for, in RabbitMQ's lists.
const PURPOSE: &str = "worker: trial of all nodes";

/// Counts the nodes that can't be reached, at intervals, until it is dropped; only one of the workers does.
pub(super) async fn watch(broker: &Broker, share: &Share) {
    WORKER.unreachable_nodes.set(0);
    if !share.dead_letters || !broker.has_several_hosts() {
        return std::future::pending().await;
    }
    loop {
        WORKER.unreachable_nodes.set(broker.count_unreachable(PURPOSE).await as i64);
        sleep(EVERY).await;
    }
}
