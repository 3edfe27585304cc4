//! RabbitMQ as a cluster of three nodes, of which some fail in the middle of a burst of updates. Whatever
//! it is, all that was answered 2xx takes effect once and in order, and no process needs a restart.

mod broken_queues;
mod leaders;
mod load;
mod machines;
mod nodes;
mod own_node;
mod several;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use deploy::servers::Cluster;
use harness::{ADMIN, Fixture, System, tests_of};

use self::load::Load;

tests_of!(nodes, own_node, several, leaders, broken_queues, machines);

/// One for each node to lead.
const PARTITIONS: u16 = 3;

/// How long a node stalls, for RabbitMQ to give it up: twice its `net_ticktime` at most.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// A system on the cluster, with a burst that is under way. Node `n` leads partition `n`.
struct OnCluster {
    cluster: Arc<Cluster>,
    system: System,
    load: Load,
}

/// The nodes that a process is given, in any order.
type Nodes<'a> = &'a [usize];

impl OnCluster {
    /// Starts a gateway and a worker for each of these sets of nodes.
    async fn start(
        fixture: &Arc<Fixture>,
        gateways: &[Nodes<'_>],
        workers: &[Nodes<'_>],
    ) -> Result<Self> {
        let fixture = fixture.with_cluster()?;
        let cluster = fixture.cluster.clone().context("the cluster")?;
        let partitions = PARTITIONS.to_string();
        let mut system =
            System::prepared_with(&fixture, &[("SDB_PARTITIONS", &partitions)]).await?;
        for nodes in workers {
            let uri = cluster.vhost_uri(&system.vhost, nodes)?;
            system.start_worker(&[("SDB_AMQP_URI", &uri), ADMIN]).await?;
        }
        let topology = system.topology().await?;
        for partition in 0..PARTITIONS {
            cluster.lead(&system.vhost, &topology.queue(partition), partition.into())?;
        }
        for nodes in gateways {
            let uri = cluster.vhost_uri(&system.vhost, nodes)?;
            system.start_gateway(&[("SDB_AMQP_URI", &uri)]).await?;
        }
        let load = Load::start(&system).await?;
        Ok(Self { cluster, system, load })
    }
}
