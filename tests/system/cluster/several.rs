//! More than one node is lost, or all are restarted, one after the other; the number of partitions changes
//! while a node is lost.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use harness::{Fixture, answer, eventually, tests};
use reqwest::Method;
use tokio::time::{Instant, sleep};

use super::{Nodes, OnCluster};

tests!(
    two_nodes_are_killed,
    all_nodes_are_restarted_one_after_the_other,
    the_number_of_partitions_is_changed_while_nodes_are_killed,
);

const ALL: Nodes<'static> = &[0, 1, 2];

async fn two_nodes_are_killed(fixture: Arc<Fixture>) -> Result<()> {
    let OnCluster { cluster, system, mut load } =
        OnCluster::start(&fixture, &[ALL, ALL], &[ALL, ALL]).await?;
    load.trouble();
    for node in [1, 2] {
        cluster.node(node)?.kill();
    }
    for gateway in 0..2 {
        load.burst().is_not_taken_by(gateway).await?;
    }
    for gateway in 0..2 {
        let ready = || answer(system.request_to(gateway, Method::GET, "/readyz"));
        eventually("the gateway says why", async || {
            Ok(ready().await?.body["reasons"].to_string().contains("RabbitMQ confirms nothing"))
        })
        .await?;
    }
    // Back by itself, with two of three.
    cluster.node(1)?.start()?;
    load.burst().is_decided().await?;
    let again = load.is_taken_again().await?;
    cluster.heal(2)?;
    load.finish(&system).await?.are_taken_since(again)?;
    system.finish().await
}

async fn all_nodes_are_restarted_one_after_the_other(fixture: Arc<Fixture>) -> Result<()> {
    let OnCluster { cluster, system, mut load } =
        OnCluster::start(&fixture, &[ALL, ALL], &[ALL, ALL]).await?;
    load.trouble();
    for node in 0..3 {
        cluster.node(node)?.stop();
        load.is_taken_again().await?;
        load.burst().is_decided().await?;
        cluster.heal(node)?;
        load.is_taken_again().await?;
        load.burst().is_decided().await?;
    }
    let again = load.is_taken_again().await?;
    load.finish(&system).await?.are_taken_since(again)?;
    system.finish().await
}

async fn the_number_of_partitions_is_changed_while_nodes_are_killed(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let OnCluster { cluster, system, mut load } =
        OnCluster::start(&fixture, &[ALL, ALL], &[ALL, ALL]).await?;
    load.trouble();
    let mut changed = 0;
    // While the new queues are declared and consumed, while gateways stop to publish, while the old queues are
    // emptied, and right after the change.
    for (node, partitions, after) in [
        (1, "5", Some(150)),
        (0, "4", Some(300)),
        (1, "7", Some(800)),
        (2, "8", Some(1_600)),
        (0, "6", None),
    ] {
        let arguments = ["topology", "change", "--partitions", partitions];
        let began = Instant::now();
        let (mut done, mut said) = (false, String::new());
        if let Some(after) = after {
            let killing = async {
                sleep(Duration::from_millis(after)).await;
                cluster.node(node)?.kill();
                anyhow::Ok(())
            };
            let (changed, killed) = tokio::join!(system.worker_command(&arguments), killing);
            killed?;
            (done, said) = changed?;
        } else {
            // Nothing is in its way, but a machine that may be too busy to empty the queues in time.
            eventually("the number is changed", async || {
                (done, said) = system.worker_command(&arguments).await?;
                Ok(done)
            })
            .await?;
        }
        // It was changed, or nothing was: either is said.
        let is_said = said.contains("Updates take") || said.contains("nothing was changed");
        ensure!(is_said, "after {:?}: {said}", began.elapsed());
        changed += usize::from(done);
        if after.is_none() {
            cluster.node(node)?.kill();
        }
        load.burst().is_decided().await?;
        cluster.heal(node)?;
        load.burst().is_decided().await?;
    }
    let version = system.topology().await?.version;
    ensure!(version > i32::try_from(changed)?, "{changed} changes, version {version}");
    load.finish(&system).await?;
    system.finish().await
}
