//! Several machines: three RabbitMQ nodes, and a primary of PostgreSQL with a synchronous standby.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use deploy::servers::{Cluster, Postgres};
use harness::{Fixture, Pair, Replication, System, proxy::Proxy};

/// The names under which the two PostgreSQL servers are standbys of each other.
const NAMES: [&str; 2] = ["sdb_a", "sdb_b"];

/// How a server is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// By SIGKILL.
    Killed,
    /// By SIGSTOP.
    Stalled,
}

/// The servers. What does not belong to the programs reaches the primary through a proxy that follows it.
pub(crate) struct Machines {
    pub(crate) cluster: Arc<Cluster>,
    pair: Pair,
    /// Whether the second server is the primary.
    is_second: AtomicBool,
    primary: Proxy,
}

impl Machines {
    /// Starts them, with a system on them that has no process yet.
    pub(crate) async fn start(fixture: &Arc<Fixture>) -> Result<(System, Self)> {
        let fixture = fixture.with_cluster()?;
        let cluster = fixture.cluster.clone().context("there is no cluster")?;
        let pair = fixture.with_own_pair(Replication::Synchronous)?;
        let mut system = pair.prepared().await?;
        let primary = Proxy::before(&pair.primary().database_uri(&system.vhost)).await?;
        system.database = harness::connect(primary.uri()).await?;
        Ok((system, Self { cluster, pair, is_second: AtomicBool::new(false), primary }))
    }

    /// Where the database is, whichever server is the primary.
    pub(crate) fn database_uri(&self) -> &str {
        self.primary.uri()
    }

    fn server(&self, is_second: bool) -> &Postgres {
        if is_second { &self.pair.standby } else { self.pair.primary() }
    }

    /// The primary.
    pub(crate) fn primary(&self) -> &Postgres {
        self.server(self.is_second.load(Ordering::Relaxed))
    }

    /// The standby; after a promotion the old primary, until it follows.
    pub(crate) fn standby(&self) -> &Postgres {
        self.server(!self.is_second.load(Ordering::Relaxed))
    }

    /// Makes the standby the primary.
    pub(crate) fn promote(&self) -> Result<()> {
        self.standby().promote()?;
        self.is_second.fetch_xor(true, Ordering::Relaxed);
        self.primary.lead_to(SocketAddr::from((Ipv4Addr::LOCALHOST, self.primary().port())));
        Ok(())
    }

    /// Makes the old primary the standby of the new one, whose commits wait for it from now on.
    pub(crate) fn follow(&self) -> Result<()> {
        let [first, second] = NAMES;
        let name = if self.is_second.load(Ordering::Relaxed) { first } else { second };
        self.standby().stop();
        self.standby().follow(self.primary(), name)?;
        self.primary().wait_for_standbys(name)
    }
}

/// Loses a server.
pub(crate) fn lose(server: &Postgres, loss: Loss) {
    match loss {
        Loss::Killed => server.kill(),
        Loss::Stalled => server.pause(),
    }
}

/// Has it back.
pub(crate) fn bring_back(server: &Postgres, loss: Loss) -> Result<()> {
    match loss {
        Loss::Killed => server.start(),
        Loss::Stalled => {
            server.resume();
            Ok(())
        }
    }
}
