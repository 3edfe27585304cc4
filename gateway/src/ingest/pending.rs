//! Requests that wait for the outcome of their update.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use shared::{
    domain::{component::ComponentId, incident::IncidentId, update_id::UpdateId},
    throttled,
    wire::message::{UpdateResult, Verdict},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::circuit_breaker::CircuitBreaker;
use crate::{
    store::{
        incidents,
        pools::Pool,
        version::{DependsOn, Version, VersionUnreadable, Versions},
    },
    view::incident_json::ShownIncident,
};

/// Time for reading the incidents of a batch.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of incidents cached for the next batch.
const KEPT: usize = 64;

/// A verdict that has arrived, with the incident that it names.
///
/// It is not the answer yet: that also needs what only the request knows ([`Submitted`](super::submit::Submitted)).
pub(crate) struct ArrivedVerdict {
    pub(crate) verdict: Verdict,
    /// The incident as it is now. None if the verdict names none, or it can't be read.
    pub(crate) incident: Option<Arc<ShownIncident>>,
}

/// The requests waiting for an outcome, by the id of their update.
pub(crate) struct PendingRequests {
    database: Pool,
    versions: Versions,
    state: Mutex<PendingState>,
    /// The incidents read recently, with the version at which they were read.
    incidents: Mutex<HashMap<IncidentId, (Version, Arc<ShownIncident>)>>,
}

#[derive(Default)]
struct PendingState {
    by_id: HashMap<UpdateId, AwaitedUpdate>,
    breaker: CircuitBreaker,
}

/// An update whose outcome was requested.
struct AwaitedUpdate {
    partition: u16,
    /// Whether RabbitMQ has confirmed it.
    accepted: bool,
    /// Whether its outcome has arrived; it is delivered once the incidents are read.
    answered: bool,
    /// The pending request; none for a probe.
    sender: Option<oneshot::Sender<ArrivedVerdict>>,
}

impl AwaitedUpdate {
    const fn new(partition: u16, sender: Option<oneshot::Sender<ArrivedVerdict>>) -> Self {
        Self { partition, accepted: false, answered: false, sender }
    }

    /// Whether it has its outcome, or may yet be sent on another channel.
    const fn may_be_answered(&self) -> bool {
        self.answered || (self.sender.is_some() && !self.accepted)
    }
}

/// Whether a request waits for the outcome of its update.
pub(crate) enum Registration<'a> {
    /// It does.
    Outcome(PendingRequest<'a>),
    /// It does not, because no outcomes arrive; but the outcome is requested, to notice when they arrive
    /// again.
    Probe,
    /// It does not, and the outcome is not requested.
    None,
}

/// A request that waits for an outcome; dropping it ends the wait.
pub(crate) struct PendingRequest<'a> {
    requests: &'a PendingRequests,
    id: UpdateId,
    partition: u16,
    component: ComponentId,
    accepted: bool,
    /// Receives the outcome.
    pub(crate) outcome: oneshot::Receiver<ArrivedVerdict>,
}

impl PendingRequests {
    pub(crate) fn new(database: Pool, versions: Versions) -> Self {
        Self { database, versions, state: Mutex::default(), incidents: Mutex::default() }
    }

    /// Registers a request, if an outcome is expected or `always`. It must precede publishing, because
    /// the reply could arrive first otherwise.
    pub(crate) fn register(
        &self,
        id: UpdateId,
        partition: u16,
        component: ComponentId,
        always: bool,
    ) -> Registration<'_> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if always || state.breaker.expects_outcome(partition, component, now) {
            let (sender, outcome) = oneshot::channel();
            let entry = AwaitedUpdate::new(partition, Some(sender));
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

    /// The channel of a partition was replaced, and replies go to the channel that the update was sent on:
    /// updates of this partition confirmed before get none any more, and their requests wait no longer.
    pub(crate) fn channel_replaced(&self, partition: u16) {
        let mut state = self.state.lock();
        state.breaker.outcomes_lost(partition);
        state.by_id.retain(|_, entry| entry.partition != partition || entry.may_be_answered());
    }

    /// The link was replaced: updates confirmed before get no replies any more.
    pub(crate) fn link_replaced(&self) {
        let mut state = self.state.lock();
        state.breaker = CircuitBreaker::default();
        state.by_id.retain(|_, entry| entry.may_be_answered());
    }

    /// Delivers the results of a batch to the pending requests, with their incidents, each read once.
    /// Other results are dropped: their requests were answered 202, and the receipts have the outcomes.
    pub(crate) async fn deliver(&self, mut results: Vec<UpdateResult>) {
        {
            let mut state = self.state.lock();
            results.retain(|result| state.is_waited_for(result.id));
        }
        let ids: BTreeSet<IncidentId> =
            results.iter().filter_map(|result| result.verdict.incident()).collect();
        let incidents = self.shown(&ids).await;
        let mut state = self.state.lock();
        for UpdateResult { id, verdict } in results {
            if let Some(AwaitedUpdate { sender: Some(sender), .. }) = state.by_id.remove(&id) {
                let incident = verdict.incident().and_then(|id| incidents.get(&id).cloned());
                // A request that gave up this very moment finds its receipt.
                drop(sender.send(ArrivedVerdict { verdict, incident }));
            }
        }
    }

    /// The current incidents, from one snapshot of the database; none if they can't be read.
    pub(crate) async fn shown(
        &self,
        ids: &BTreeSet<IncidentId>,
    ) -> HashMap<IncidentId, Arc<ShownIncident>> {
        if ids.is_empty() {
            return HashMap::new();
        }
        let silent = |_| Err(shared::database::sqlstate::timed_out());
        let read = timeout(READ_LIMIT, self.incidents(ids)).await;
        read.unwrap_or_else(silent).unwrap_or_else(|error| {
            let reason = shared::telemetry::chain(&error);
            throttled!(warn, &reason, reason, "the incidents of answers can't be read");
            HashMap::new()
        })
    }

    /// The current incidents. Those that no transaction has changed since they were read are taken from
    /// memory: monitors repeat their updates, which change nothing.
    async fn incidents(
        &self,
        ids: &BTreeSet<IncidentId>,
    ) -> Result<HashMap<IncidentId, Arc<ShownIncident>>, sqlx::Error> {
        // Read before the incidents: a cached incident may be newer than its version, and is then read
        // again.
        let unread = |error: VersionUnreadable| sqlx::Error::Protocol(error.to_string());
        let version = self.versions.now(DependsOn::Rows).await.map_err(unread)?;
        let mut incidents = HashMap::new();
        {
            let kept = self.incidents.lock();
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
        let mut kept = self.incidents.lock();
        if kept.len() + read.len() > KEPT {
            kept.clear();
        }
        for (id, incident) in read {
            let shown = Arc::new(ShownIncident::new(incident));
            kept.insert(id, (version, shown.clone()));
            incidents.insert(id, shown);
        }
        Ok(incidents)
    }
}

impl PendingState {
    /// Records that the outcome of an update arrived; returns whether a request waits for it.
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

    /// Makes an update the probe of its partition; false if there is a recent one.
    fn probe(&mut self, id: UpdateId, partition: u16, now: Instant) -> bool {
        let (probes, replaced) = self.breaker.probe(partition, id, now);
        if let Some(replaced) = replaced {
            self.by_id.remove(&replaced);
        }
        if probes {
            self.by_id.insert(id, AwaitedUpdate::new(partition, None));
        }
        probes
    }
}

impl PendingRequest<'_> {
    /// RabbitMQ has confirmed the update: its outcome is awaited from now on.
    pub(crate) fn accepted(&mut self) {
        self.accepted = true;
        let mut guard = self.requests.state.lock();
        let state = &mut *guard;
        let Some(entry) = state.by_id.get_mut(&self.id) else { return };
        entry.accepted = true;
        // The reply may arrive before the confirmation.
        if !entry.answered {
            state.breaker.outcome_awaited(self.partition, self.component, Instant::now());
        }
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        let mut state = self.requests.state.lock();
        let entry = state.by_id.remove(&self.id);
        // Its outcome may still arrive, and show that others will.
        if self.accepted && entry.is_some_and(|entry| !entry.answered) {
            state.probe(self.id, self.partition, Instant::now());
        }
    }
}
