//! The readiness of a worker: whether it consumes partitions or stands by.

use parking_lot::Mutex;
use serde_json::{Value, json};
use shared::{
    amqp::{broker::Broker, topology::Phase},
    database::Servers,
    http::health::ReadyStatus,
    telemetry::metrics::{COMMON, Server, WORKER},
};
use tokio_util::sync::CancellationToken;

use crate::{membership::Share, store::workers::MemberId};

/// The state of the worker.
enum WorkerState {
    /// It is starting, or between two sessions.
    WaitingFor(&'static str),
    /// It does not consume, because something failed.
    Unavailable(String),
    /// It consumes its share. Without a partition it stands by.
    Consuming { member: MemberId, share: Share, left_out: Vec<String> },
}

/// What connections for updates are for, in RabbitMQ's lists and in reports.
pub(crate) const PURPOSE: &str = "worker: updates";

/// The state of the worker, and whether it is shutting down.
pub(crate) struct Readiness {
    broker: Broker,
    state: Mutex<WorkerState>,
    servers: Servers,
    stop: CancellationToken,
}

/// The answer of `/readyz`.
pub(crate) struct ReadinessReport {
    pub(crate) ready: bool,
    pub(crate) body: Value,
}

impl Readiness {
    pub(crate) fn new(broker: Broker, servers: Servers, stop: CancellationToken) -> Self {
        let state = Mutex::new(WorkerState::WaitingFor("PostgreSQL has not answered yet"));
        Self { broker, state, servers, stop }
    }

    /// Records that the worker waits for something, and consumes nothing meanwhile.
    pub(crate) fn waiting_for(&self, reason: &'static str) {
        self.leave(WorkerState::WaitingFor(reason));
    }

    /// Records that the worker can't consume, and why.
    pub(crate) fn unavailable(&self, reason: String) {
        self.leave(WorkerState::Unavailable(reason));
    }

    fn leave(&self, next: WorkerState) {
        *self.state.lock() = next;
        WORKER.owned.set(0);
        WORKER.queue.clear();
    }

    /// Records that the worker consumes its share, without the queues that it must leave out.
    pub(crate) fn consuming(&self, member: MemberId, share: Share, left_out: Vec<String>) {
        let topology = share.topology();
        let consumed =
            share.partitions.iter().filter(|one| !left_out.contains(&topology.queue(**one)));
        WORKER.owned.set(consumed.count() as i64);
        WORKER.partitions.set(topology.partitions.into());
        let next = WorkerState::Consuming { member, share, left_out };
        let before = std::mem::replace(&mut *self.state.lock(), next);
        if matches!(before, WorkerState::Unavailable(_)) {
            COMMON.reconnects.of(Server::Rabbitmq).inc();
        }
    }

    fn is_running(&self) -> bool {
        !self.stop.is_cancelled()
    }

    /// Whether the worker consumes or stands by, or else what it waits for.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match &*self.state.lock() {
            WorkerState::WaitingFor(reason) => Err((*reason).to_owned()),
            WorkerState::Unavailable(reason) => Err(reason.clone()),
            WorkerState::Consuming { .. } => Ok(()),
        }
    }

    /// Whether the worker consumes partitions or stands by, and is not stopping.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_running() && self.ready().is_ok()
    }

    /// The answer of `/readyz`.
    pub(crate) fn report(&self) -> ReadinessReport {
        let (is_consuming, mut reasons, share) = match &*self.state.lock() {
            WorkerState::WaitingFor(reason) => (false, vec![(*reason).to_owned()], Value::Null),
            WorkerState::Unavailable(reason) => (false, vec![reason.clone()], Value::Null),
            WorkerState::Consuming { member, share, left_out } => {
                let mut reasons = match share.recorded.phase {
                    Phase::Open => Vec::new(),
                    Phase::Draining | Phase::Closed => {
                        vec!["the number of partitions is being changed".to_owned()]
                    }
                };
                reasons.extend(
                    left_out
                        .iter()
                        .map(|queue| format!("{queue} can't be consumed: it is left out")),
                );
                let topology = share.topology();
                let share = json!({
                    "worker": member.0,
                    "topology": topology.version,
                    "partitions": share.partitions,
                    "of": topology.partitions,
                });
                (true, reasons, share)
            }
        };
        if WORKER.waiting_commits.get() > 0 {
            reasons.push(
                "commits wait for a synchronous standby of PostgreSQL: updates get 202".to_owned(),
            );
        }
        reasons.extend(self.servers.faults());
        if !self.is_running() {
            reasons.insert(0, "the worker is stopping".to_owned());
        }
        let ready = is_consuming && self.is_running();
        let status = ReadyStatus::of(ready, !reasons.is_empty());
        let body = json!({
            "status": status,
            "reasons": reasons,
            "share": share,
            "rabbitmq": self.broker.report(PURPOSE),
            "database": self.servers.report(),
        });
        ReadinessReport { ready, body }
    }
}
