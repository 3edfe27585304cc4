//! Declares the queues again while the worker runs, so that what somebody deleted or unbound is there
//! again within seconds.

use std::time::Duration;

use lapin::Connection;
use shared::{
    database::{ConnectOptions, Database},
    telemetry::chain,
    throttled,
    topology::{DeclareError, Phase, Topology},
};
use sqlx::PgConnection;
use tokio::time::{sleep, timeout};

use crate::membership::Share;

/// Between two declarations, and more for each partition: RabbitMQ takes some time for each.
const EVERY: Duration = Duration::from_secs(5);
const MORE_FOR_EACH: Duration = Duration::from_millis(20);
/// Time for one declaration.
const LIMIT: Duration = Duration::from_secs(30);

/// Declares again and again, until it is dropped; one of all workers does. The queues of this worker's
/// own share need no look, since their deletion ends their delivery; bindings do, and exchanges.
pub(crate) async fn redeclare(connection: &Connection, share: &Share, database: ConnectOptions) {
    // While they are being emptied they exist, and must not be made anew.
    if !share.dead_letters || share.recorded.phase != Phase::Open {
        return std::future::pending().await;
    }
    let topology = share.topology();
    let mut database = Database::new(database);
    loop {
        sleep(EVERY + MORE_FOR_EACH * topology.partitions.into()).await;
        let failure = match timeout(LIMIT, once(connection, topology, &mut database)).await {
            // Where the shape is being changed, this session ends soon.
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
    // A channel of its own: RabbitMQ closes it when it refuses something.
    let channel = connection.create_channel().await?;
    let declare = async |database: &mut PgConnection| topology.declare(&channel, database).await;
    database.with(declare).await?;
    Ok(channel.close(200, "declared".into()).await?)
}
