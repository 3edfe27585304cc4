//! Lists as they were last written. Each is written once for all who ask for the same state of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    http::{conditions::Coding, error::ApiError},
    store::version::Version,
};

/// Bytes that are kept, more or less: then all are forgotten, those that nobody asks for any more
/// among them.
const KEPT_BYTES: usize = 32 * 1024 * 1024;
/// Lists that are kept.
const KEPT_LISTS: usize = 256;

/// A list as it was written.
pub(super) enum Written {
    /// It is in memory.
    Held {
        version: Version,
        body: Bytes,
        /// Where the next page is.
        next: Option<HeaderValue>,
    },
    /// It was too large for that.
    TooLarge(Version),
}

impl Written {
    pub(super) const fn version(&self) -> Version {
        match self {
            Self::Held { version, .. } | Self::TooLarge(version) => *version,
        }
    }
}

/// Where a list is written.
#[derive(Default)]
pub(super) struct Slot {
    /// Whoever has the lock writes, the others wait and find it.
    pub(super) written: tokio::sync::Mutex<Option<Written>>,
    /// When it could not be written last, and what was answered.
    failed: Mutex<Option<(Instant, ApiError)>>,
}

impl Slot {
    /// Takes down that the list can't be written now. That there is no such thing is no failure: it may
    /// have come to be since.
    pub(super) fn fails(&self, error: &ApiError) {
        if error.status() == StatusCode::SERVICE_UNAVAILABLE {
            *lock(&self.failed) = Some((Instant::now(), error.clone()));
        }
    }

    /// What to answer who came before the list could not be written last.
    pub(super) fn failed_since(&self, came: Instant) -> Option<ApiError> {
        lock(&self.failed).as_ref().filter(|(at, _)| *at > came).map(|(_, error)| error.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they hold is whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Slots {
    slots: HashMap<(String, Coding), Arc<Slot>>,
    /// Bytes that were put into them.
    bytes: usize,
}

/// The lists that were asked for lately.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Slots>);

impl Cache {
    /// The slot of a list; `list` says which one, and everything that its content depends on.
    pub(super) fn slot(&self, list: String, coding: Coding) -> Arc<Slot> {
        let mut slots = lock(&self.0);
        let key = (list, coding);
        if slots.slots.len() >= KEPT_LISTS && !slots.slots.contains_key(&key) {
            *slots = Slots::default();
        }
        slots.slots.entry(key).or_default().clone()
    }

    /// The slot of a list that was asked for lately.
    pub(super) fn find(&self, list: &str, coding: Coding) -> Option<Arc<Slot>> {
        lock(&self.0).slots.get(&(list.to_owned(), coding)).cloned()
    }

    /// Makes room for so many bytes more.
    pub(super) fn make_room(&self, bytes: usize) {
        let mut slots = lock(&self.0);
        slots.bytes += bytes;
        if slots.bytes > KEPT_BYTES {
            *slots = Slots { slots: HashMap::new(), bytes };
        }
    }

    /// Forgets all: those that readers still have live on with them.
    pub(super) fn clear(&self) {
        *lock(&self.0) = Slots::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failure_is_shared_with_those_who_waited_for_it() {
        let slot = Slot::default();
        let before = Instant::now();
        assert!(slot.failed_since(before).is_none());
        slot.fails(&ApiError::new(StatusCode::NOT_FOUND, "gone"));
        assert!(slot.failed_since(before).is_none());
        std::thread::sleep(Duration::from_millis(2));
        slot.fails(&ApiError::unavailable("away"));
        let status = slot.failed_since(before).map(|error| error.status());
        assert_eq!(status, Some(StatusCode::SERVICE_UNAVAILABLE));
        std::thread::sleep(Duration::from_millis(2));
        assert!(slot.failed_since(Instant::now()).is_none());
    }
}
