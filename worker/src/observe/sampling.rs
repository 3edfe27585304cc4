//! Counts the updates of committed batches, and samples the queues and the database for the metrics.

use std::time::Duration;

use lapin::{Connection, options::QueueDeclareOptions, types::FieldTable};
use shared::{
    database::{Database, standbys},
    telemetry::{
        chain,
        metrics::{AppliedLabel, PartitionLabel, ResultLabel, WORKER},
    },
    wire::message::Verdict,
};
use sqlx::PgConnection;
use tokio::time::{sleep, timeout};

use crate::{
    batch::{self, Incoming},
    membership::Share,
    store::statistics,
};

const INTERVAL: Duration = Duration::from_secs(5);
/// Time limit of one sample.
const LIMIT: Duration = Duration::from_secs(5);

/// Counts the outcomes of a committed batch. A deferred update is counted when it is applied or parked.
pub(crate) fn count_applied(batch: &[Incoming], results: &[batch::MessageResult]) {
    let settled = batch.iter().zip(results).filter_map(|(incoming, applied)| match applied {
        batch::MessageResult::Settled(verdict) => Some((incoming, verdict.as_ref())),
        batch::MessageResult::Deferred(_) => None,
    });
    let mut count = 0;
    for (incoming, verdict) in settled {
        count += 1;
        let applied = match verdict {
            // Another version applied it, by other rules.
            None => AppliedLabel::Redelivered,
            Some(Verdict::Repeated { original, .. }) if incoming.update_id() == Some(*original) => {
                AppliedLabel::Redelivered
            }
            Some(verdict) => AppliedLabel::Result(verdict.into()),
        };
        WORKER.applied.of(applied).inc();
        match (applied, &incoming.content) {
            (AppliedLabel::Result(ResultLabel::Decided(_) | ResultLabel::Repeated), Ok(update)) => {
                WORKER.applied_now(update.received_at);
            }
            (AppliedLabel::Result(_) | AppliedLabel::Redelivered, _) => {}
        }
    }
    WORKER.batch.observe(f64::from(count));
}

/// Samples the number of messages in the queues of a share, until it is dropped.
pub(crate) async fn queues(connection: &Connection, share: &Share) {
    loop {
        match timeout(LIMIT, read_queues(connection, share)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(reason = chain(&error), "a queue can't be sampled"),
            Err(_) => tracing::debug!("sampling the queues timed out"),
        }
        sleep(INTERVAL).await;
    }
}

async fn read_queues(connection: &Connection, share: &Share) -> Result<(), lapin::Error> {
    // A separate channel: RabbitMQ closes it if a queue does not exist.
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    for partition in &share.partitions {
        let queue = share.topology().queue(*partition);
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        // A queue without a leader reports zeros. This worker consumes it, so it has a consumer.
        if declared.consumer_count() == 0 {
            continue;
        }
        let label = PartitionLabel { partition: *partition };
        WORKER.queue.get_or_create(&label).set(declared.message_count().into());
    }
    channel.close(200, "measured".into()).await
}

/// Samples the database, for as long as the worker runs.
pub(crate) async fn database(mut database: Database, inbox_days: u32) {
    WORKER.retention.set(i64::from(inbox_days) * 86_400);
    loop {
        if let Err(error) = database.with_within(LIMIT, read_database).await {
            let reason = chain(&error);
            tracing::debug!(reason, "the database can't be sampled");
            // Readiness must not name a reason that is over.
            WORKER.waiting_commits.set(0);
        }
        sleep(INTERVAL).await;
    }
}

async fn read_database(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    let read = statistics::read(database).await?;
    WORKER.living.set(read.live_workers);
    WORKER.parked.set(read.parked);
    WORKER.live_reports.set(read.live_reports);
    WORKER.inbox_rows.set(read.inbox_rows);
    WORKER.oldest_part.set(read.oldest_partition);
    WORKER.waiting_commits.set(standbys::waiting_commits(database).await?);
    Ok(())
}
