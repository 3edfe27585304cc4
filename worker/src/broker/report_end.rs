//! Ends a report, for an operator: with an `ok` that names its source.

use anyhow::{Context, Result, bail, ensure};
use shared::{
    broker::Broker,
    component::Component,
    condition::Condition,
    incident::DEFAULT_TITLE,
    message::{REPORTS, Report, UpdateMessage},
    update_id::UpdateId,
};
use sqlx::PgConnection;

use super::publish::CommandPublisher;
use crate::store::incident_details;

/// Queues the `ok`; returns its id.
///
/// # Errors
/// When the recorded version of messages has no reports, or when RabbitMQ or the database fails. Ending a report
/// twice is harmless.
pub(crate) async fn end(
    database: &mut PgConnection,
    broker: &Broker,
    component: Component,
    source: String,
    key: String,
) -> Result<UpdateId> {
    let publisher = CommandPublisher::open(database, broker, "worker: report").await?;
    let wire = publisher.topology.wire;
    ensure!(
        wire >= REPORTS,
        "reports need version {REPORTS} of messages, and the database records version {wire}: once all \
        workers are of this release, run `worker topology change --wire {REPORTS}`"
    );
    let received_at = incident_details::now(database).await?;
    let update = UpdateMessage {
        id: UpdateId::at(received_at),
        component,
        condition: Condition::Ok,
        text: DEFAULT_TITLE.to_owned(),
        received_at,
        idempotency: None,
        report: Some(Report { source, key, ..Report::default() }),
    };
    let partition = update.component.id.partition(publisher.topology.partitions);
    let refusal = publisher
        .publish(partition, Some(update.id.to_string()), &update.encode())
        .await
        .context("it may not have been queued: do it again")?;
    if let Some(reason) = refusal {
        bail!("it was not queued, since its queue is {reason}: do it again later");
    }
    publisher.close().await;
    Ok(update.id)
}
