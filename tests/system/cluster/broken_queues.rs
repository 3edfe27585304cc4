//! A queue without members: RabbitMQ died while it was declared.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{ADMIN, Fixture, System, eventually, status_update, tests};
use serde_json::Value;
use shared::domain::component::ComponentId;
use tokio::time::sleep;

use super::leaders::leaders;
use crate::telemetry::ready;

tests!(it_is_completed_by_hand, it_stops_no_other,);

/// A worker tries the queue again meanwhile.
const UNLED: Duration = Duration::from_secs(25);

/// What helps if RabbitMQ dies within a declaration (`docs/setup/high-availability.md`).
async fn it_is_completed_by_hand(fixture: Arc<Fixture>) -> Result<()> {
    let fixture = fixture.with_cluster()?;
    let cluster = fixture.cluster.clone().context("the cluster")?;
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "2")]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    leaders(&cluster, &system).await?;
    let half = system.topology().await?.queue(ComponentId(1).partition(2));
    for node in 0..3 {
        cluster.node(node)?.lose_member(&system.vhost, &half)?;
    }
    eventually("the queue has no leader", async || {
        Ok(system.post_with_default_wait(&status_update("DNS", 1)).await?.status == 503)
    })
    .await?;

    cluster.complete_declaration(&system.vhost, &half)?;
    leaders(&cluster, &system).await?;
    for name in ["DNS", "CDN"] {
        system.is_decided(&status_update(name, 1)).await?;
    }
    system.drained().await?;
    system.finish().await
}

/// While the node that was declaring the queue is away, RabbitMQ ends each connection that consumes it.
async fn it_stops_no_other(fixture: Arc<Fixture>) -> Result<()> {
    let fixture = fixture.with_cluster()?;
    let cluster = fixture.cluster.clone().context("the cluster")?;
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "2")]).await?;
    let uri = cluster.vhost_uri(&system.vhost, &[0, 2])?;
    let settings = [("SDB_AMQP_URI", uri.as_str()), ADMIN];
    system.start_worker(&settings).await?;
    system.start_gateway(&[("SDB_AMQP_URI", &uri)]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    leaders(&cluster, &system).await?;
    let topology = system.topology().await?;

    for broken in [topology.queue(ComponentId(1).partition(2)), topology.dead_letter_queue()] {
        cluster.lead(&system.vhost, &broken, 1)?;
        for node in 0..3 {
            cluster.node(node)?.lose_member(&system.vhost, &broken)?;
        }
        cluster.node(1)?.kill();
        // One that consumes it already notices nothing.
        drop(system.workers.remove(0));
        system.start_worker(&settings).await?;
        system.is_decided(&status_update("CDN", 1)).await?;
        let address = system.workers[0].admin_address().await?;
        let left_out = async || {
            let report = ready(&system, &address).await?;
            Ok(report.status == 200 && names(&report.body, &format!("{broken} can't be consumed")))
        };
        eventually("it is left out", left_out).await?;
        // It stays so while it has no leader.
        cluster.heal(1)?;
        sleep(UNLED).await;
        ensure!(left_out().await?, "it is not left out");
        system.is_decided(&status_update("CDN", 1)).await?;

        cluster.complete_declaration(&system.vhost, &broken)?;
        eventually("nothing is left out", async || {
            let report = ready(&system, &address).await?;
            Ok(report.status == 200 && !names(&report.body, "left out"))
        })
        .await?;
        eventually("it is consumed", async || {
            let queues =
                cluster.first().ctl(&["list_queues", "-p", &system.vhost, "name", "consumers"])?;
            let consumers = queues.lines().find_map(|line| line.strip_prefix(&broken));
            Ok(consumers.is_some_and(|consumers| consumers.trim() != "0"))
        })
        .await?;
        system.is_decided(&status_update("DNS", 1)).await?;
    }
    system.drained().await?;
    system.finish().await
}

/// Whether a reason in a worker's report contains this.
fn names(report: &Value, text: &str) -> bool {
    let reasons = report["reasons"].as_array();
    reasons.is_some_and(|all| {
        all.iter().any(|reason| reason.as_str().is_some_and(|r| r.contains(text)))
    })
}
