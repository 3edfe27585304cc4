//! Requests that wait for the outcome of their update.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    incident::IncidentId,
    message::{UpdateResult, Verdict},
    seldom,
    update::UpdateId,
};
use sqlx::PgPool;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    incident::{self, Shown},
    list::{Version, Versions},
};

/// Time for reading the incidents of a batch.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Incidents that are kept for the next batch.
const KEPT: usize = 64;

/// What became of an update, with the incident that it led to as that is now.
pub(crate) struct Settled {
    pub(crate) verdict: Verdict,
    /// None when the verdict names none, or it could not be read.
    pub(crate) incident: Option<Arc<Shown>>,
}

/// The requests that wait, by the id of their update.
pub(crate) struct Waiters {
    database: PgPool,
    versions: Versions,
    waiting: Mutex<HashMap<UpdateId, oneshot::Sender<Settled>>>,
    /// The incidents that were read lately, with the version at which they were.
    incidents: Mutex<HashMap<IncidentId, (Version, Arc<Shown>)>>,
}

/// One request's place among those that wait; it is given up when dropped.
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    id: UpdateId,
    /// What became of the update, when a worker says so.
    pub(crate) settled: oneshot::Receiver<Settled>,
}

impl Waiters {
    pub(crate) fn new(database: PgPool, versions: Versions) -> Self {
        Self { database, versions, waiting: Mutex::default(), incidents: Mutex::default() }
    }

    /// Starts to wait. Done before the update is published, or the reply could come first.
    pub(crate) fn wait_for(&self, id: UpdateId) -> Waiter<'_> {
        let (sender, settled) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        Waiter { waiters: self, id, settled }
    }

    /// Hands the results of a batch to those who wait, with their incidents, each read once. The
    /// results that nobody waits for are dropped: those requests were answered 202, and their
    /// receipts have the outcome.
    pub(crate) async fn settle(&self, mut results: Vec<UpdateResult>) {
        {
            let waiting = lock(&self.waiting);
            results.retain(|result| waiting.contains_key(&result.id));
        }
        let ids: BTreeSet<IncidentId> =
            results.iter().filter_map(|result| incident_id(&result.verdict)).collect();
        let incidents = if ids.is_empty() {
            HashMap::new()
        } else {
            let silent = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
            let read = timeout(READ_LIMIT, self.incidents(&ids)).await;
            read.unwrap_or_else(silent).unwrap_or_else(|error| {
                let reason = shared::telemetry::chain(&error);
                seldom!(warn, &reason, reason, "the incidents of answers can't be read");
                HashMap::new()
            })
        };
        let mut waiting = lock(&self.waiting);
        for UpdateResult { id, verdict } in results {
            if let Some(sender) = waiting.remove(&id) {
                let incident = incident_id(&verdict).and_then(|id| incidents.get(&id).cloned());
                // A request that gave up this very moment finds its receipt.
                drop(sender.send(Settled { verdict, incident }));
            }
        }
    }

    /// The incidents as they are now: those that no transaction has changed since they were read are
    /// in memory. Monitors repeat themselves, and nothing changes then.
    async fn incidents(
        &self,
        ids: &BTreeSet<IncidentId>,
    ) -> Result<HashMap<IncidentId, Arc<Shown>>, sqlx::Error> {
        // Before the incidents: what is kept may be newer than its version, and is read again then.
        let unread = |_| sqlx::Error::Protocol("the version of the lists can't be read".to_owned());
        let version = self.versions.now().await.map_err(unread)?.without_windows();
        let mut incidents = HashMap::new();
        {
            let kept = lock(&self.incidents);
            for id in ids {
                if let Some((_, shown)) = kept.get(id).filter(|(at, _)| at.reaches(version)) {
                    incidents.insert(*id, shown.clone());
                }
            }
        }
        let missing: Vec<IncidentId> =
            ids.iter().filter(|id| !incidents.contains_key(id)).copied().collect();
        if missing.is_empty() {
            return Ok(incidents);
        }
        let read = incident::read(&self.database, &missing).await?;
        let mut kept = lock(&self.incidents);
        if kept.len() + read.len() > KEPT {
            kept.clear();
        }
        for (id, incident) in read {
            let shown = Arc::new(Shown::new(incident));
            kept.insert(id, (version, shown.clone()));
            incidents.insert(id, shown);
        }
        Ok(incidents)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map is whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn incident_id(verdict: &Verdict) -> Option<IncidentId> {
    match verdict {
        Verdict::Decided { incident, .. } => Some(incident.id),
        Verdict::Repeated { incident, .. } => Some(*incident),
        Verdict::Rejected | Verdict::Parked => None,
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        lock(&self.waiters.waiting).remove(&self.id);
    }
}
