//! The hosts of RabbitMQ: in which order they are tried, which is in use, and why another is not.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::servers_report::{ServerNotUsed, ServersReport};

/// How long a host that failed is tried after the others.
const AVOIDED: Duration = Duration::from_secs(30);

/// The hosts of an address.
pub(super) struct Hosts {
    /// Each as `host:port`.
    names: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The host of the last connection for each purpose.
    used: BTreeMap<String, usize>,
    /// The last failure of each host since its last success.
    failures: BTreeMap<usize, Failure>,
}

struct Failure {
    at: Instant,
    reason: String,
}

impl Hosts {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self { names, state: Mutex::default() }
    }

    pub(super) fn name(&self, host: usize) -> &str {
        self.names.get(host).map_or("", String::as_str)
    }

    /// All hosts, in random order, so that clients spread over them; those that have just failed are last.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let (random, state) = (RandomState::new(), self.state.lock());
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        order.sort_by_key(|host| {
            let failure = state.failures.get(host);
            let is_avoided =
                failure.is_some_and(|failure| now.duration_since(failure.at) < AVOIDED);
            (is_avoided, random.hash_one(host))
        });
        order
    }

    pub(super) fn connected(&self, purpose: &str, host: usize) {
        let mut state = self.state.lock();
        state.failures.remove(&host);
        state.used.insert(purpose.to_owned(), host);
    }

    /// The host of the last connection for a purpose.
    pub(super) fn used(&self, purpose: &str) -> Option<usize> {
        self.state.lock().used.get(purpose).copied()
    }

    /// The connection for a purpose is used for another one from now on.
    pub(super) fn reuse(&self, purpose: &str, other: &str) {
        let mut state = self.state.lock();
        if let Some(host) = state.used.remove(purpose) {
            state.used.insert(other.to_owned(), host);
        }
    }

    pub(super) fn failed(&self, host: usize, reason: String) {
        self.state.lock().failures.insert(host, Failure { at: Instant::now(), reason });
    }

    /// Records that the last connection for a purpose failed.
    pub(super) fn lost(&self, purpose: &str, reason: &str) {
        let mut state = self.state.lock();
        if let Some(host) = state.used.remove(purpose) {
            let reason = reason.to_owned();
            state.failures.insert(host, Failure { at: Instant::now(), reason });
        }
    }

    pub(super) fn report(&self, purpose: &str) -> ServersReport {
        let state = self.state.lock();
        let not_used = state.failures.iter().map(|(host, Failure { at, reason })| ServerNotUsed {
            server: self.name(*host).to_owned(),
            reason: format!("{reason} ({} s ago)", at.elapsed().as_secs()),
        });
        let not_used = not_used.collect();
        let server = state.used.get(purpose).map(|host| self.name(*host).to_owned());
        ServersReport { server, not_used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts::new(["a:1", "b:2", "c:3"].map(str::to_owned).into())
    }

    #[test]
    fn clients_spread_over_the_hosts() {
        let hosts = hosts();
        let first: std::collections::BTreeSet<usize> =
            (0..200).map(|_| hosts.order(Instant::now())[0]).collect();
        assert_eq!(first.len(), 3);
        let mut order = hosts.order(Instant::now());
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2]);
    }

    #[test]
    fn a_host_that_failed_is_tried_last_for_a_while() {
        let hosts = hosts();
        hosts.connected("updates", 1);
        hosts.lost("updates", "it is silent");
        assert!((0..200).all(|_| hosts.order(Instant::now())[2] == 1));
        let later = Instant::now() + AVOIDED;
        assert!((0..200).any(|_| hosts.order(later)[0] == 1));
    }

    #[test]
    fn the_report_has_the_host_in_use_and_why_others_are_not() {
        let hosts = hosts();
        hosts.failed(0, "refused".to_owned());
        hosts.connected("updates", 2);
        let report = hosts.report("updates");
        assert_eq!(report.server.as_deref(), Some("c:3"));
        let (server, reason) = ("a:1".to_owned(), "refused (0 s ago)".to_owned());
        assert_eq!(report.not_used, [ServerNotUsed { server, reason }]);
        assert_eq!((hosts.used("updates"), hosts.used("replies")), (Some(2), None));
        hosts.reuse("updates", "others");
        assert_eq!((hosts.used("updates"), hosts.used("others")), (None, Some(2)));
        hosts.connected("replies", 0);
        assert!(hosts.report("others").not_used.is_empty());
    }
}
