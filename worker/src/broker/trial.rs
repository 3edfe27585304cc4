//! Tries whether a node of RabbitMQ can serve a worker.
//!
//! A node that has lost the majority of its cluster accepts connections and answers heartbeats, and neither
//! delivers nor confirms anything. A worker on such a node would keep its share from others.

use std::time::Duration;

use lapin::{
    Connection,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use shared::{
    database::Database,
    topology::{DeclareError, Phase, Recorded},
};
use sqlx::PgConnection;
use tokio::{sync::Mutex, time::timeout};

/// Time for the whole trial.
const LIMIT: Duration = Duration::from_secs(5);

/// Why a node can't serve a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    #[error("the queues can't be declared")]
    Declare(#[from] DeclareError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not declare and deliver within {} s", LIMIT.as_secs())]
    Silent,
}

/// Declares the queues, if they may be declared, and consumes the dead-letter queue for a moment, which
/// needs a majority of its members. That queue is normally empty, and any number of consumers may share it.
///
/// # Errors
/// When the node refuses, or does not do it in time.
pub(super) async fn consume(
    connection: &Connection,
    database: &Mutex<Database>,
) -> Result<(), TrialError> {
    let trying = async {
        let mut database = database.lock().await;
        let channel = connection.create_channel().await?;
        let declare = async |database: &mut PgConnection| {
            let recorded = Recorded::read(database).await?;
            if recorded.phase == Phase::Open {
                recorded.topology.declare(&channel, database).await?;
            }
            Ok::<Recorded, DeclareError>(recorded)
        };
        let Recorded { topology, phase } = database.with(declare).await?;
        drop(database);
        if phase == Phase::Open {
            channel.basic_qos(topology.prefetch, BasicQosOptions::default()).await?;
            let queue = topology.dead_letter_queue();
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer =
                channel.basic_consume(queue.into(), "trial".into(), options, none).await?;
            // What was delivered is requeued, at its place, while the consumer still exists.
            channel.close(200, "tried".into()).await?;
            drop(consumer);
        }
        Ok(())
    };
    timeout(LIMIT, trying).await.map_err(|_| TrialError::Silent)?
}
