//! One node is killed, stalled or restarted.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use harness::{Fixture, tests};

use super::{ANSWERS_AGAIN, HEALS, Nodes, OnCluster, STALL};

tests!(the_node_of_a_leader_is_killed, the_node_of_a_leader_stalls,);

/// The gateways and the first worker are connected to other nodes than the one that fails.
async fn start(fixture: &Arc<Fixture>) -> Result<OnCluster> {
    let (apart, all): (Nodes<'_>, Nodes<'_>) = (&[0, 2], &[0, 1, 2]);
    OnCluster::start(fixture, &[apart, apart], &[apart, all]).await
}

async fn the_node_of_a_leader_is_killed(fixture: Arc<Fixture>) -> Result<()> {
    let OnCluster { cluster, system, mut load } = start(&fixture).await?;
    load.trouble();
    cluster.node(1)?.kill();
    load.until(Duration::from_secs(6)).await;
    cluster.heal(1)?;
    let answers = load.finish(&system, ANSWERS_AGAIN).await?;
    for gateway in 0..2 {
        answers.go_on(gateway, &[0, 2])?;
        answers.are_taken_after(gateway, ANSWERS_AGAIN)?;
    }
    system.finish().await
}

async fn the_node_of_a_leader_stalls(fixture: Arc<Fixture>) -> Result<()> {
    let OnCluster { cluster, system, mut load } = start(&fixture).await?;
    load.trouble();
    cluster.node(1)?.pause();
    load.until(STALL).await;
    cluster.heal(1)?;
    let answers = load.finish(&system, STALL + HEALS).await?;
    for gateway in 0..2 {
        answers.go_on(gateway, &[0, 2])?;
        answers.are_taken_after(gateway, ANSWERS_AGAIN)?;
    }
    system.finish().await
}
