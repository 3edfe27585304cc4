//! Which nodes lead the queues.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use deploy::servers::{Cluster, DEFAULT_NAME};
use harness::{Fixture, System, eventually, tests};

tests!(a_change_of_the_topology_spreads_the_leaders,);

/// The node that leads each queue of the partitions, once all are led.
pub(super) async fn leaders(cluster: &Cluster, system: &System) -> Result<Vec<usize>> {
    let topology = system.topology().await?;
    let mut leaders = Vec::new();
    eventually("all queues are led", async || {
        let known: Vec<Option<usize>> = (0..topology.partitions)
            .map(|partition| cluster.leader(0, &system.vhost, &topology.queue(partition)))
            .collect::<Result<_>>()?;
        leaders = known.iter().flatten().copied().collect();
        Ok(leaders.len() == known.len())
    })
    .await?;
    Ok(leaders)
}

async fn a_change_of_the_topology_spreads_the_leaders(fixture: Arc<Fixture>) -> Result<()> {
    let fixture = fixture.with_cluster()?;
    let cluster = fixture.cluster.clone().context("the cluster")?;
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "6")]).await?;
    // RabbitMQ spreads the leaders of all queues, and those of earlier tests are led by any nodes.
    let delete_others = format!(
        "[rabbit_vhost:delete(Name, <<\"test\">>) || Name <- rabbit_vhost:list_names(), \
         not lists:member(Name, [<<\"{DEFAULT_NAME}\">>, <<\"{}\">>])], ok.",
        system.vhost
    );
    cluster.first().eval(&delete_others)?;
    // All that is declared is declared on node 1.
    system.amqp_uri = cluster.vhost_uri(&system.vhost, &[1])?;
    system.start_worker(&[]).await?;

    // The queues of earlier releases.
    system.worker_succeeds(&["topology", "change", "--arguments", "1"]).await?;
    let of_earlier = leaders(&cluster, &system).await?;
    ensure!(of_earlier == [1; 6], "nodes {of_earlier:?} lead queues that node 1 declared");
    // Node 1 may lead none of the new ones: the earlier ones are still there when they are declared.
    system.worker_succeeds(&["topology", "change", "--arguments", "3"]).await?;
    let of_newest = leaders(&cluster, &system).await?;
    ensure!(
        [0, 2].iter().all(|node| of_newest.contains(node)),
        "nodes {of_newest:?} lead the queues"
    );
    system.finish().await
}
