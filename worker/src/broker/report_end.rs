//! Ends a report, for an operator: with an `ok` that names its source.

use anyhow::{Context, Result, bail, ensure};
use shared::{
    amqp::broker::Broker,
    domain::{
        component::Component, condition::Condition, incident::DEFAULT_TITLE, update_id::UpdateId,
    },
    process::output,
    wire::message::{REPORTS, Report, UpdateMessage},
};
use sqlx::PgConnection;

use super::publish::CommandPublisher;
use crate::store::incident_details;

/// Queues the `ok`, with this id or a new one, after it has printed the id: so that it is known if the rest fails.
///
/// # Errors
/// When the recorded version of messages has no reports, or when RabbitMQ or the database fails.
pub(crate) async fn end(
    database: &mut PgConnection,
    broker: &Broker,
    component: Component,
    report: Report,
    id: Option<UpdateId>,
) -> Result<()> {
    let publisher = CommandPublisher::open(database, broker, "worker: report").await?;
    let wire = publisher.topology.wire;
    ensure!(
        wire >= REPORTS,
        "reports need version {REPORTS} of messages, and the database records version {wire}: once all \
        workers and all gateways are of this release, run `worker topology change --wire {REPORTS}`"
    );
    let received_at = incident_details::now(database).await?;
    let id = id.unwrap_or_else(|| UpdateId::at(received_at));
    output::line(format!("The `ok` is the update {id}."))?;
    let update = UpdateMessage {
        id,
        component,
        condition: Condition::Ok,
        text: DEFAULT_TITLE.to_owned(),
        received_at,
        idempotency: None,
        report: Some(report),
    };
    let partition = update.component.id.partition(publisher.topology.partitions);
    let refusal = publisher
        .publish(partition, Some(update.id.to_string()), &update.encode())
        .await
        .with_context(|| format!("it may not have been queued: do it again with `--id {id}`"))?;
    if let Some(reason) = refusal {
        bail!("it was not queued, since its queue is {reason}: do it again later");
    }
    publisher.close().await;
    Ok(())
}
