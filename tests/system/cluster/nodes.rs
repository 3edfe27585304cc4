//! The node that leads a queue is killed or stalled.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use deploy::servers::RabbitMq;
use harness::{Fixture, tests};

use super::{GIVEN_UP, Nodes, OnCluster};

tests!(the_node_of_a_leader_is_killed, the_node_of_a_leader_stalls,);

/// How long a node is away: an election takes less.
const AWAY: Duration = Duration::from_secs(6);

async fn the_node_of_a_leader_is_killed(fixture: Arc<Fixture>) -> Result<()> {
    a_leader_fails(&fixture, RabbitMq::kill, AWAY).await
}

async fn the_node_of_a_leader_stalls(fixture: Arc<Fixture>) -> Result<()> {
    a_leader_fails(&fixture, RabbitMq::pause, GIVEN_UP).await
}

/// The gateways and the first worker are connected to other nodes than the one that fails for some time.
async fn a_leader_fails(fixture: &Arc<Fixture>, fail: fn(&RabbitMq), time: Duration) -> Result<()> {
    let (apart, all): (Nodes<'_>, Nodes<'_>) = (&[0, 2], &[0, 1, 2]);
    let OnCluster { cluster, system, mut load } =
        OnCluster::start(fixture, &[apart, apart], &[apart, all]).await?;
    load.trouble();
    fail(cluster.node(1)?);
    let again = load.is_taken_again().await?;
    load.until(time).await;
    cluster.heal(1)?;
    let answers = load.finish(&system).await?;
    answers.are_taken_since(again)?;
    for gateway in 0..2 {
        answers.go_on(gateway, &[0, 2])?;
    }
    system.finish().await
}
