//! The servers of one address: which of them is the primary, and why the others are not used.
//!
//! A primary that lost its standby to a promotion and comes back, or goes on after a stall, still accepts
//! writes. So it is not enough to take the first server that does: each promotion begins a timeline, and
//! only the server with the highest one counts. A lower one than this process has seen is never used, though
//! it may be the only one that answers. A process that has just started can't know; to keep an old primary
//! from coming back is the task of the cluster manager.

mod choice;
mod origin;
mod probe;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use sqlx::{PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep},
};

pub use self::choice::Unfit;
pub(super) use self::origin::{ORIGIN, Origin};
use self::{choice::Choice, probe::probe};
use crate::http::servers_report::{ServerNotUsed, ServersReport};

/// Time in which a server must answer, for it not to hold up the others.
pub(super) const SERVER_LIMIT: Duration = Duration::from_secs(1);
/// How often all servers are asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One server.
#[derive(Clone, Debug)]
struct Server {
    /// Its host and port, for people.
    name: String,
    connect: PgConnectOptions,
}

/// The servers of an address. Clones share what was found.
#[derive(Clone, Debug)]
pub struct Servers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// In the order of the address.
    named: Vec<Server>,
    choice: watch::Sender<Choice>,
    looking: Mutex<Looking>,
    /// Sessions that are closed when another server takes over, though nobody uses them.
    idle: parking_lot::Mutex<Vec<Weak<IdleSession>>>,
}

/// A session that is not in use, with the epoch of its server.
pub(super) type IdleSession = parking_lot::Mutex<Option<(PgConnection, u64)>>;

/// Held by the one that asks the servers.
#[derive(Debug, Default)]
struct Looking {
    /// When it was done last.
    began: Option<Instant>,
    /// A session of each server that answers, to ask it again.
    sessions: BTreeMap<String, PgConnection>,
}

impl Servers {
    /// Those of an address, at least one. Several addresses of one name are one server, as its certificate
    /// and a balancer have it.
    pub(super) fn new(named: impl Iterator<Item = PgConnectOptions>) -> Self {
        let named = named.map(|connect| Server { name: probe::name(&connect), connect }).collect();
        let choice = watch::Sender::new(Choice::default());
        Self(Arc::new(Shared {
            named,
            choice,
            looking: Mutex::default(),
            idle: parking_lot::Mutex::default(),
        }))
    }

    /// Has a session closed when another server takes over.
    pub(super) fn close_when_replaced(&self, session: &Arc<IdleSession>) {
        if self.are_several() {
            let mut idle = self.0.idle.lock();
            idle.retain(|session| session.strong_count() > 0);
            idle.push(Arc::downgrade(session));
        }
    }

    fn close_replaced(&self) {
        let current = self.epoch();
        for session in self.0.idle.lock().iter().filter_map(Weak::upgrade) {
            session.lock().take_if(|(_, epoch)| *epoch != current);
        }
    }

    /// How to connect to the one that is named first, before there is a choice.
    pub(super) fn first(&self) -> (PgConnectOptions, u64) {
        let first = self.0.named.first().map(|server| server.connect.clone());
        (first.unwrap_or_default(), self.epoch())
    }

    /// Whether there are several: of a single one nothing is asked.
    #[must_use]
    pub(crate) fn are_several(&self) -> bool {
        self.0.named.len() > 1
    }

    /// How to connect to the server that was the primary when they were asked last, with its epoch; none of
    /// a single server.
    pub(super) fn primary(&self) -> Option<(PgConnectOptions, u64)> {
        self.0.choice.borrow().primary()
    }

    /// The same; if it could not be used any more, why each server is not used.
    pub(super) fn usable_primary(&self) -> Result<(PgConnectOptions, u64), String> {
        let choice = self.0.choice.borrow();
        choice.primary().filter(|_| choice.is_usable).ok_or_else(|| choice.reasons())
    }

    /// Verifies that a new session is not of an old primary, or of another cluster.
    pub(super) fn verify(&self, origin: Origin) -> Result<(), Unfit> {
        self.0.choice.borrow().verify(&origin).map(drop)
    }

    /// Counts the primaries that this process has used: connections to an earlier one are not to be used
    /// any more.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.choice.borrow().epoch
    }

    /// Waits until another server has taken over from the primary of this epoch.
    pub async fn replaced(&self, epoch: u64) {
        let mut choice = self.0.choice.subscribe();
        // An error means that the sender is gone, which `self` has.
        drop(choice.wait_for(|choice| choice.epoch != epoch).await);
    }

    /// Asks all servers which of them is the primary, if that was never done.
    pub async fn look_once(&self) {
        let was_done = self.0.choice.borrow().is_made;
        if !was_done && self.are_several() {
            self.look().await;
        }
    }

    /// Asks all servers which of them is the primary, unless another task has begun to, or has found a new
    /// one, since this was called.
    pub(super) async fn look(&self) {
        let (called, epoch) = (Instant::now(), self.epoch());
        let mut looking = self.0.looking.lock().await;
        if looking.began.is_some_and(|began| began > called) || self.epoch() != epoch {
            return;
        }
        let began = Instant::now();
        let asked: Vec<_> = self
            .0
            .named
            .iter()
            .cloned()
            .map(|server| {
                let session = looking.sessions.remove(&server.name);
                probe(server, session)
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        for (server, session, answer) in join_all(asked).await {
            looking.sessions.extend(session.map(|session| (server.name.clone(), session)));
            answers.push((server, answer));
        }
        self.0.choice.send_modify(|choice| choice.update(answers));
        self.close_replaced();
        looking.began = Some(began);
    }

    /// Asks them periodically, for as long as the program runs.
    pub async fn watch(self) {
        if !self.are_several() {
            return std::future::pending().await;
        }
        loop {
            self.look().await;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Which server is used, and why the others are not.
    #[must_use]
    pub fn report(&self) -> ServersReport {
        let choice = self.0.choice.borrow();
        let server = if self.are_several() {
            choice.primary.as_ref().filter(|_| choice.is_usable)
        } else {
            self.0.named.first()
        };
        let server = server.map(|server| server.name.clone());
        let not_used = choice
            .unfit
            .iter()
            .map(|(name, why)| ServerNotUsed { server: name.clone(), reason: why.to_string() });
        ServersReport { server, not_used: not_used.collect() }
    }

    /// Why each of several servers is not used, for people; empty if there is none.
    #[must_use]
    pub fn reasons(&self) -> String {
        self.0.choice.borrow().reasons()
    }

    /// What an operator should know: another server that takes writes, and is not used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let choice = self.0.choice.borrow();
        let faults = choice.unfit.iter().filter(|(_, reason)| reason.is_fault());
        faults
            .map(|(server, reason)| format!("PostgreSQL at {server} is not used: {reason}"))
            .collect()
    }
}
