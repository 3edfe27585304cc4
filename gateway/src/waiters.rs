//! Requests that wait for the outcome of their update.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    incident::IncidentId,
    message::{UpdateResult, Verdict},
    update::UpdateId,
};
use sqlx::PgPool;
use tokio::{sync::oneshot, time::timeout};

use crate::incident::{self, Incident};

/// Time for reading the incidents of a batch.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// What became of an update, with the incident that it led to as that is now.
pub(crate) struct Settled {
    pub(crate) verdict: Verdict,
    /// None when the verdict names none, or it could not be read.
    pub(crate) incident: Option<Arc<Incident>>,
}

/// The requests that wait, by the id of their update.
pub(crate) struct Waiters {
    database: PgPool,
    waiting: Mutex<HashMap<UpdateId, oneshot::Sender<Settled>>>,
}

/// One request's place among those that wait; it is given up when dropped.
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    id: UpdateId,
    /// What became of the update, when a worker says so.
    pub(crate) settled: oneshot::Receiver<Settled>,
}

impl Waiters {
    pub(crate) fn new(database: PgPool) -> Self {
        Self { database, waiting: Mutex::default() }
    }

    /// Starts to wait. Done before the update is published, or the reply could come first.
    pub(crate) fn wait_for(&self, id: UpdateId) -> Waiter<'_> {
        let (sender, settled) = oneshot::channel();
        self.lock().insert(id, sender);
        Waiter { waiters: self, id, settled }
    }

    /// Hands the results of a batch to those who wait, with their incidents, each read once. The
    /// results that nobody waits for are dropped: those requests were answered 202, and their
    /// receipts have the outcome.
    pub(crate) async fn settle(&self, mut results: Vec<UpdateResult>) {
        {
            let waiting = self.lock();
            results.retain(|result| waiting.contains_key(&result.id));
        }
        let ids: BTreeSet<IncidentId> =
            results.iter().filter_map(|result| incident_id(&result.verdict)).collect();
        let ids: Vec<IncidentId> = ids.into_iter().collect();
        let incidents = if ids.is_empty() {
            HashMap::new()
        } else {
            let silent = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
            let read = timeout(READ_LIMIT, incident::read(&self.database, &ids)).await;
            read.unwrap_or_else(|_| Err(silent())).unwrap_or_else(|error| {
                let reason = shared::telemetry::chain(&error);
                tracing::warn!(reason, "the incidents of answers can't be read");
                HashMap::new()
            })
        };
        let incidents: HashMap<_, _> =
            incidents.into_iter().map(|(id, incident)| (id, Arc::new(incident))).collect();
        let mut waiting = self.lock();
        for UpdateResult { id, verdict } in results {
            if let Some(sender) = waiting.remove(&id) {
                let incident = incident_id(&verdict).and_then(|id| incidents.get(&id).cloned());
                // A request that gave up this very moment finds its receipt.
                drop(sender.send(Settled { verdict, incident }));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UpdateId, oneshot::Sender<Settled>>> {
        // A map of senders is whole after any panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        self.waiters.lock().remove(&self.id);
    }
}
