//! One node is killed, stalled or restarted.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use harness::{Fixture, tests};

use super::{ANSWERS_AGAIN, OnCluster};

tests!(
    the_node_of_a_leader_is_killed,
    the_node_of_a_leader_stalls,
);

/// The first gateway and the first worker have nodes 0 and 2 only, the others all.
async fn start(fixture: &Arc<Fixture>) -> Result<OnCluster> {
    let (apart, all): (&[usize], &[usize]) = (&[0, 2], &[0, 1, 2]);
    OnCluster::start(fixture, &[apart, all], &[apart, all]).await
}

async fn the_node_of_a_leader_is_killed(fixture: Arc<Fixture>) -> Result<()> {
    let OnCluster { cluster, system, mut load } = start(&fixture).await?;
    load.trouble();
    cluster.node(1)?.kill();
    load.until(Duration::from_secs(6)).await;
    cluster.heal(1)?;
    let answers = load.finish(&system, ANSWERS_AGAIN).await?;
    answers.go_on(0, &[0, 2])?;
    for gateway in 0..2 {
        answers.are_taken_after(gateway, ANSWERS_AGAIN)?;
    }
    system.finish().await
}

async fn the_node_of_a_leader_stalls(fixture: Arc<Fixture>) -> Result<()> {
    let OnCluster { cluster, system, mut load } = start(&fixture).await?;
    load.trouble();
    cluster.node(1)?.pause();
    load.until(Duration::from_secs(20)).await;
    cluster.heal(1)?;
    let answers = load.finish(&system, Duration::from_secs(26)).await?;
    answers.go_on(0, &[0, 2])?;
    for gateway in 0..2 {
        answers.are_taken_after(gateway, ANSWERS_AGAIN)?;
    }
    system.finish().await
}
