//! Redeclares the queues while the worker runs, so that deleted queues and bindings are restored within
//! seconds.

use std::time::Duration;

use lapin::Connection;
use shared::{
    amqp::topology::{DeclareError, Phase, Topology},
    database::{ConnectOptions, Database},
    telemetry::chain,
    throttled,
};
use sqlx::PgConnection;
use tokio::time::{sleep, timeout};

use crate::membership::Share;

/// Pause between two declarations, extended for each partition: RabbitMQ takes some time for each.
const EVERY: Duration = Duration::from_secs(5);
const MORE_FOR_EACH: Duration = Duration::from_millis(20);
/// Time for one declaration.
const LIMIT: Duration = Duration::from_secs(30);

/// Redeclares periodically until it is dropped; only one of the workers does. It restores bindings and
/// exchanges; the deletion of a queue of this worker's share is noticed because it ends the deliveries.
pub(crate) async fn redeclare(connection: &Connection, share: &Share, database: ConnectOptions) {
    // While the queues are being drained they exist, and must not be created again.
    if !share.dead_letters || share.recorded.phase != Phase::Open {
        return std::future::pending().await;
    }
    let topology = share.topology();
    let mut database = Database::new(database);
    loop {
        sleep(EVERY + MORE_FOR_EACH * topology.partitions.into()).await;
        let failure = match timeout(LIMIT, once(connection, topology, &mut database)).await {
            // While the topology is being changed, this session ends soon.
            Ok(Ok(()) | Err(DeclareError::Changed)) => continue,
            Ok(Err(error)) => chain(&error),
            Err(_) => "RabbitMQ or the database did not answer in time".to_owned(),
        };
        throttled!(warn, &failure, reason = failure, "the queues can't be declared again");
    }
}

async fn once(
    connection: &Connection,
    topology: &Topology,
    database: &mut Database,
) -> Result<(), DeclareError> {
    // A separate channel, because RabbitMQ closes it when it refuses a declaration.
    let channel = connection.create_channel().await?;
    let declare = async |database: &mut PgConnection| topology.declare(&channel, database).await;
    database.with(declare).await?;
    Ok(channel.close(200, "declared".into()).await?)
}
