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

use super::silence::Silence;
use crate::store::{
    incidents::{self, Shown},
    version::{Version, Versions},
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
    waiting: Mutex<Waiting>,
    /// The incidents that were read lately, with the version at which they were.
    incidents: Mutex<HashMap<IncidentId, (Version, Arc<Shown>)>>,
}

#[derive(Default)]
struct Waiting {
    by_id: HashMap<UpdateId, Entry>,
    silence: Silence,
}

/// An update whose outcome is asked for.
struct Entry {
    partition: u16,
    /// Whether a reply had its outcome, which is handed over once the incidents are read.
    answered: bool,
    /// Who waits for it; none for a probe.
    waiter: Option<oneshot::Sender<Settled>>,
}

/// Whether the outcome of an update is waited for.
pub(crate) enum Wait<'a> {
    /// It is.
    Outcome(Waiter<'a>),
    /// It is not, since no outcomes come; but it is asked for, to see when they come again.
    Probe,
    /// It is not, and nobody asks for it.
    Nothing,
}

/// One request's place among those that wait; it is given up when dropped.
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    id: UpdateId,
    partition: u16,
    component: ComponentId,
    accepted: bool,
    /// What became of the update, when a worker says so.
    pub(crate) settled: oneshot::Receiver<Settled>,
}

impl Waiters {
    pub(crate) fn new(database: PgPool, versions: Versions) -> Self {
        Self { database, versions, waiting: Mutex::default(), incidents: Mutex::default() }
    }

    /// Starts to wait, if it is of use, or `always`. Done before the update is published, or the reply
    /// could come first.
    pub(crate) fn wait_for(
        &self,
        id: UpdateId,
        partition: u16,
        component: ComponentId,
        always: bool,
    ) -> Wait<'_> {
        let now = Instant::now();
        let mut waiting = lock(&self.waiting);
        if always || waiting.silence.expects(partition, component, now) {
            let (sender, settled) = oneshot::channel();
            let entry = Entry { partition, answered: false, waiter: Some(sender) };
            waiting.by_id.insert(id, entry);
            return Wait::Outcome(Waiter {
                waiters: self,
                id,
                partition,
                component,
                accepted: false,
                settled,
            });
        }
        if waiting.probe(id, partition, now) { Wait::Probe } else { Wait::Nothing }
    }

    /// Replies go elsewhere from now on: what was sent before has none any more.
    pub(crate) fn replies_go_elsewhere(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.silence = Silence::default();
        waiting.by_id.retain(|_, entry| entry.waiter.is_some());
    }

    /// Hands the results of a batch to those who wait, with their incidents, each read once. The
    /// results that nobody waits for are dropped: those requests were answered 202, and their
    /// receipts have the outcome.
    pub(crate) async fn settle(&self, mut results: Vec<UpdateResult>) {
        {
            let mut waiting = lock(&self.waiting);
            results.retain(|result| waiting.is_waited_for(result.id));
        }
        let ids: BTreeSet<IncidentId> =
            results.iter().filter_map(|result| incident_id(&result.verdict)).collect();
        let incidents = self.shown(&ids).await;
        let mut waiting = lock(&self.waiting);
        for UpdateResult { id, verdict } in results {
            if let Some(Entry { waiter: Some(waiter), .. }) = waiting.by_id.remove(&id) {
                let incident = incident_id(&verdict).and_then(|id| incidents.get(&id).cloned());
                // A request that gave up this very moment finds its receipt.
                drop(waiter.send(Settled { verdict, incident }));
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

impl Waiting {
    /// Takes note that the outcome of an update came; whether a request waits for it.
    fn is_waited_for(&mut self, id: UpdateId) -> bool {
        let Some(entry) = self.by_id.get_mut(&id) else { return false };
        entry.answered = true;
        self.silence.ends(entry.partition, id);
        let waits = entry.waiter.is_some();
        if !waits {
            self.by_id.remove(&id);
        }
        waits
    }

    /// Makes an update the probe of its partition; false when there is one.
    fn probe(&mut self, id: UpdateId, partition: u16, now: Instant) -> bool {
        let (probes, replaced) = self.silence.probe(partition, id, now);
        if let Some(replaced) = replaced {
            self.by_id.remove(&replaced);
        }
        if probes {
            self.by_id.insert(id, Entry { partition, answered: false, waiter: None });
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

impl Waiter<'_> {
    /// RabbitMQ has the update: its outcome is due.
    pub(crate) fn accepted(&mut self) {
        self.accepted = true;
        let mut waiting = lock(&self.waiters.waiting);
        // The reply may be quicker than the confirmation.
        if waiting.by_id.get(&self.id).is_some_and(|entry| !entry.answered) {
            waiting.silence.awaits(self.partition, self.component, Instant::now());
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiters.waiting);
        let entry = waiting.by_id.remove(&self.id);
        // It may come yet, and show that others will.
        if self.accepted && entry.is_some_and(|entry| !entry.answered) {
            waiting.probe(self.id, self.partition, Instant::now());
        }
    }
}
