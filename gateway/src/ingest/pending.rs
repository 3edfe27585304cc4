//! Requests that wait for the outcome of their update.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    component::ComponentId,
    incident::IncidentId,
    message::{UpdateResult, Verdict},
    throttled,
    update_id::UpdateId,
};
use sqlx::PgPool;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::circuit_breaker::CircuitBreaker;
use crate::store::{
    incidents::{self, Shown},
    version::{Version, Versions},
};

/// Time for reading the incidents of a batch.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Incidents that are kept for the next batch.
const KEPT: usize = 64;

/// What became of an update, with the incident that it led to as that is now.
pub(crate) struct UpdateOutcome {
    pub(crate) verdict: Verdict,
    /// None when the verdict names none, or it could not be read.
    pub(crate) incident: Option<Arc<Shown>>,
}

/// The requests that wait, by the id of their update.
pub(crate) struct PendingRequests {
    database: PgPool,
    versions: Versions,
    state: Mutex<State>,
    /// The incidents that were read lately, with the version at which they were.
    incidents: Mutex<HashMap<IncidentId, (Version, Arc<Shown>)>>,
}

#[derive(Default)]
struct State {
    by_id: HashMap<UpdateId, AwaitedUpdate>,
    breaker: CircuitBreaker,
}

/// An update whose outcome is asked for.
struct AwaitedUpdate {
    partition: u16,
    /// Whether a reply had its outcome, which is handed over once the incidents are read.
    answered: bool,
    /// Who waits for it; none for a probe.
    sender: Option<oneshot::Sender<UpdateOutcome>>,
}

/// Whether the outcome of an update is waited for.
pub(crate) enum Registration<'a> {
    /// It is.
    Outcome(PendingRequest<'a>),
    /// It is not, since no outcomes come; but it is asked for, to see when they come again.
    Probe,
    /// It is not, and nobody asks for it.
    None,
}

/// One request's place among those that wait; it is given up when dropped.
pub(crate) struct PendingRequest<'a> {
    requests: &'a PendingRequests,
    id: UpdateId,
    partition: u16,
    component: ComponentId,
    accepted: bool,
    /// What became of the update, when a worker says so.
    pub(crate) outcome: oneshot::Receiver<UpdateOutcome>,
}

impl PendingRequests {
    pub(crate) fn new(database: PgPool, versions: Versions) -> Self {
        Self { database, versions, state: Mutex::default(), incidents: Mutex::default() }
    }

    /// Starts to wait, if it is of use, or `always`. Done before the update is published, or the reply
    /// could come first.
    pub(crate) fn register(
        &self,
        id: UpdateId,
        partition: u16,
        component: ComponentId,
        always: bool,
    ) -> Registration<'_> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if always || state.breaker.expects_outcome(partition, component, now) {
            let (sender, outcome) = oneshot::channel();
            let entry = AwaitedUpdate { partition, answered: false, sender: Some(sender) };
            state.by_id.insert(id, entry);
            return Registration::Outcome(PendingRequest {
                requests: self,
                id,
                partition,
                component,
                accepted: false,
                outcome,
            });
        }
        if state.probe(id, partition, now) { Registration::Probe } else { Registration::None }
    }

    /// Replies go elsewhere from now on: what was sent before has none any more.
    pub(crate) fn reply_queue_replaced(&self) {
        let mut state = lock(&self.state);
        state.breaker = CircuitBreaker::default();
        state.by_id.retain(|_, entry| entry.sender.is_some());
    }

    /// Hands the results of a batch to those who wait, with their incidents, each read once. The
    /// results that nobody waits for are dropped: those requests were answered 202, and their
    /// receipts have the outcome.
    pub(crate) async fn deliver(&self, mut results: Vec<UpdateResult>) {
        {
            let mut state = lock(&self.state);
            results.retain(|result| state.is_waited_for(result.id));
        }
        let ids: BTreeSet<IncidentId> =
            results.iter().filter_map(|result| incident_id(&result.verdict)).collect();
        let incidents = self.shown(&ids).await;
        let mut state = lock(&self.state);
        for UpdateResult { id, verdict } in results {
            if let Some(AwaitedUpdate { sender: Some(sender), .. }) = state.by_id.remove(&id) {
                let incident = incident_id(&verdict).and_then(|id| incidents.get(&id).cloned());
                // A request that gave up this very moment finds its receipt.
                drop(sender.send(UpdateOutcome { verdict, incident }));
            }
        }
    }

    /// The incidents as they are now, in one state of the database; none when they can't be read.
    pub(crate) async fn shown(
        &self,
        ids: &BTreeSet<IncidentId>,
    ) -> HashMap<IncidentId, Arc<Shown>> {
        if ids.is_empty() {
            return HashMap::new();
        }
        let silent = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
        let read = timeout(READ_LIMIT, self.incidents(ids)).await;
        read.unwrap_or_else(silent).unwrap_or_else(|error| {
            let reason = shared::telemetry::chain(&error);
            throttled!(warn, &reason, reason, "the incidents of answers can't be read");
            HashMap::new()
        })
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
        let read = incidents::read(&self.database, &missing).await?;
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

impl State {
    /// Takes note that the outcome of an update came; whether a request waits for it.
    fn is_waited_for(&mut self, id: UpdateId) -> bool {
        let Some(entry) = self.by_id.get_mut(&id) else { return false };
        entry.answered = true;
        self.breaker.outcome_arrived(entry.partition, id);
        let waits = entry.sender.is_some();
        if !waits {
            self.by_id.remove(&id);
        }
        waits
    }

    /// Makes an update the probe of its partition; false when there is one.
    fn probe(&mut self, id: UpdateId, partition: u16, now: Instant) -> bool {
        let (probes, replaced) = self.breaker.probe(partition, id, now);
        if let Some(replaced) = replaced {
            self.by_id.remove(&replaced);
        }
        if probes {
            self.by_id.insert(id, AwaitedUpdate { partition, answered: false, sender: None });
        }
        probes
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

impl PendingRequest<'_> {
    /// RabbitMQ has the update: its outcome is due.
    pub(crate) fn accepted(&mut self) {
        self.accepted = true;
        let mut state = lock(&self.requests.state);
        // The reply may be quicker than the confirmation.
        if state.by_id.get(&self.id).is_some_and(|entry| !entry.answered) {
            state.breaker.outcome_awaited(self.partition, self.component, Instant::now());
        }
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.requests.state);
        let entry = state.by_id.remove(&self.id);
        // It may come yet, and show that others will.
        if self.accepted && entry.is_some_and(|entry| !entry.answered) {
            state.probe(self.id, self.partition, Instant::now());
        }
    }
}
