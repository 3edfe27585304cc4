//! The cluster of RabbitMQ nodes that tests share.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use deploy::servers::Cluster;

/// The cluster, which is started by the first test that needs it.
pub struct SharedCluster {
    folder: PathBuf,
    running: Mutex<Option<Arc<Cluster>>>,
    turn: Mutex<()>,
}

impl SharedCluster {
    /// One that will be started in this folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, running: Mutex::default(), turn: Mutex::default() })
    }

    /// Waits until no other test breaks it.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster, with all of its nodes.
    pub(crate) fn get(&self) -> Result<Arc<Cluster>> {
        let mut running = self.running();
        let cluster = match running.take() {
            Some(cluster) => cluster,
            None => Arc::new(Cluster::start(&self.folder)?),
        };
        // One that can't be brought back is not used again.
        cluster.heal_all()?;
        Ok(running.insert(cluster).clone())
    }

    /// Stops it.
    pub(crate) fn stop(&self) {
        drop(self.running().take());
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Cluster>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
