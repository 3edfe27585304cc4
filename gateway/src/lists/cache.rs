//! A cache of lists. Each is written once for all requests for the same version.

use std::{collections::HashMap, mem, sync::Arc};

use axum::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{self, watch},
    time::Instant,
};

use crate::{
    http::{content_coding::Coding, error::ApiError},
    store::version::Version,
};

/// Maximum size of the cache, in bytes.
const KEPT_BYTES: usize = 32 * 1024 * 1024;
/// Maximum number of cached lists.
const KEPT_LISTS: usize = 256;

/// Lists up to this size are not counted in the memory budget: slow readers of large lists must not block
/// them.
pub(super) const SMALL_BYTES: usize = 16 * 1024;

/// The result of writing a list.
pub(super) enum Written {
    /// It was small enough for memory.
    Held(List),
    /// It was too large for memory.
    TooLarge(Version),
    /// It does not exist at this version.
    Gone(Version, ApiError),
}

/// A list in memory, with the headers of its answers.
#[derive(Clone)]
pub(super) struct List {
    pub(super) version: Version,
    pub(super) tag: HeaderValue,
    /// The address of the next page.
    pub(super) next: Option<HeaderValue>,
    pub(super) body: Bytes,
}

impl Written {
    const fn version(&self) -> Version {
        match self {
            Self::Held(List { version, .. }) | Self::TooLarge(version) | Self::Gone(version, _) => {
                *version
            }
        }
    }
}

/// The latest results of writing a list.
#[derive(Default)]
struct Latest {
    written: Option<Arc<Written>>,
    /// The last failure to write it: its time, and the error.
    failed: Option<(Instant, ApiError)>,
}

impl Latest {
    /// The list, unless it is older than `version`.
    fn list(&self, version: Version) -> Option<Arc<Written>> {
        self.written.clone().filter(|written| written.version().reaches(version))
    }

    /// The result for a request for this version. A request that arrived before the last failure gets
    /// that: otherwise it would fail for all waiting requests, one after the other.
    fn answer(&self, version: Version, came: Instant) -> Option<Result<Arc<Written>, ApiError>> {
        let failed = || self.failed.as_ref().filter(|(at, _)| *at > came);
        self.list(version).map(Ok).or_else(|| failed().map(|(_, error)| Err(error.clone())))
    }
}

/// The slot of a list, which is written by one request at a time.
#[derive(Default)]
pub(super) struct Slot {
    /// Each result wakes all waiting requests at once.
    latest: watch::Sender<Latest>,
    turn: sync::Mutex<()>,
}

/// What a request gets from a slot.
pub(super) enum Found<'a> {
    /// The list.
    Written(Arc<Written>),
    /// The turn to write it. If the request gives up, the next one gets the turn.
    Turn(Turn<'a>),
}

/// The right to write a list.
pub(super) struct Turn<'a> {
    slot: &'a Slot,
    _turn: sync::MutexGuard<'a, ()>,
}

impl Slot {
    /// The list, unless it is absent or older than `version`.
    pub(super) fn now(&self, version: Version) -> Option<Arc<Written>> {
        self.latest.borrow().list(version)
    }

    /// The list at this version or a later one, possibly after waiting, or the turn to write it.
    ///
    /// # Errors
    /// When the request that wrote it meanwhile failed.
    pub(super) async fn find(&self, version: Version) -> Result<Found<'_>, ApiError> {
        if let Some(written) = self.now(version) {
            return Ok(Found::Written(written));
        }
        let came = Instant::now();
        let mut latest = self.latest.subscribe();
        loop {
            let turn = tokio::select! {
                biased;
                // It fails only without the sender, which `self` has.
                _ = latest.wait_for(|latest| latest.answer(version, came).is_some()) => None,
                turn = self.turn.lock() => Some(turn),
            };
            // The previous writer may have finished just before the turn was passed on.
            let answer = self.latest.borrow().answer(version, came);
            match (answer, turn) {
                (Some(answer), _) => return answer.map(Found::Written),
                (None, Some(turn)) => return Ok(Found::Turn(Turn { slot: self, _turn: turn })),
                // It was cached, and was replaced by the version of another server.
                (None, None) => {}
            }
        }
    }
}

impl Turn<'_> {
    /// The list is written.
    pub(super) fn written(&self, written: Written) {
        self.slot.latest.send_modify(|latest| latest.written = Some(Arc::new(written)));
    }

    /// The list can't be written now. A missing object is no failure: it may be created at any time. Where an answer may
    /// be old, it is [`Written::Gone`].
    pub(super) fn failed(&self, error: &ApiError) {
        if error.status() == StatusCode::SERVICE_UNAVAILABLE {
            let failed = Some((Instant::now(), error.clone()));
            self.slot.latest.send_modify(|latest| latest.failed = failed);
        }
    }
}

/// The list and its coding.
type Key = (String, Coding);

struct Kept {
    slot: Arc<Slot>,
    /// Its memory.
    bytes: usize,
    /// The time of its last request, counted in requests.
    used: u64,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, Kept>,
    /// The memory of all of them.
    bytes: usize,
    requests: u64,
}

impl Slots {
    /// Evicts the least recently used of these; false if there is none. Requests that wait for it or read
    /// it keep it.
    fn forget_oldest(&mut self, of: impl Fn(&Kept) -> bool) -> bool {
        let these = self.by_key.iter().filter(|(_, kept)| of(kept));
        let oldest = these.min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
        let Some(kept) = oldest.and_then(|key| self.by_key.remove(&key)) else { return false };
        self.bytes -= kept.bytes;
        true
    }
}

/// The recently requested lists. The least recently used ones are evicted.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Slots>);

impl Cache {
    /// The slot of a list; `list` identifies it with everything that its content depends on.
    pub(super) fn slot(&self, list: String, coding: Coding) -> Arc<Slot> {
        let mut slots = self.0.lock();
        slots.requests += 1;
        let (requests, full) = (slots.requests, slots.by_key.len() >= KEPT_LISTS);
        let key = (list, coding);
        if full && !slots.by_key.contains_key(&key) {
            slots.forget_oldest(|_| true);
        }
        let new = || Kept { slot: Arc::default(), bytes: 0, used: requests };
        let kept = slots.by_key.entry(key).or_insert_with(new);
        kept.used = requests;
        kept.slot.clone()
    }

    /// The slot of a recently requested list.
    pub(super) fn find(&self, list: &str, coding: Coding) -> Option<Arc<Slot>> {
        self.0.lock().by_key.get(&(list.to_owned(), coding)).map(|kept| kept.slot.clone())
    }

    /// Records the memory of a slot, and evicts others if necessary.
    pub(super) fn weigh(&self, slot: &Arc<Slot>, bytes: usize) {
        let mut slots = self.0.lock();
        let kept = slots.by_key.values_mut().find(|kept| Arc::ptr_eq(&kept.slot, slot));
        // One that was evicted meanwhile is freed with its last reader.
        let Some(kept) = kept else { return };
        let before = mem::replace(&mut kept.bytes, bytes);
        slots.bytes = slots.bytes - before + bytes;
        while slots.bytes > KEPT_BYTES {
            slots.forget_oldest(|kept| kept.bytes > 0 && !Arc::ptr_eq(&kept.slot, slot));
        }
    }

    /// Evicts one that is counted in the memory budget; false if there is none.
    pub(super) fn forget_one(&self) -> bool {
        self.0.lock().forget_oldest(|kept| kept.bytes > SMALL_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn held(lists: i64) -> Written {
        let (tag, body) = (HeaderValue::from_static("tag"), Bytes::from_static(b"[]"));
        Written::Held(List { version: Version::of(lists), tag, next: None, body })
    }

    fn status(found: Result<Found<'_>, ApiError>) -> Option<StatusCode> {
        found.err().map(|error| error.status())
    }

    #[tokio::test]
    async fn one_writes_and_all_who_wait_have_it() {
        let slot = Slot::default();
        let Ok(Found::Turn(turn)) = slot.find(Version::of(5)).await else { panic!("no turn") };
        let waiting = join_all((0..100).map(|_| slot.find(Version::of(5))));
        let (found, ()) = tokio::join!(waiting, async {
            turn.written(held(6));
            drop(turn);
        });
        assert!(found.iter().all(|found| matches!(found, Ok(Found::Written(_)))));
        assert!(slot.now(Version::of(6)).is_some() && slot.now(Version::of(7)).is_none());
    }

    #[tokio::test]
    async fn a_turn_that_is_given_up_is_passed_on() {
        let slot = Slot::default();
        let turn = slot.find(Version::of(5)).await;
        let (next, ()) = tokio::join!(slot.find(Version::of(5)), async { drop(turn) });
        assert!(matches!(next, Ok(Found::Turn(_))));
    }

    #[tokio::test]
    async fn a_failure_is_shared_with_those_who_waited_for_it() {
        let slot = Slot::default();
        let wanted = || slot.find(Version::of(5));
        let Ok(Found::Turn(turn)) = wanted().await else { panic!("no turn") };
        let (waited, ()) = tokio::join!(wanted(), async {
            turn.failed(&ApiError::new(StatusCode::NOT_FOUND, "gone"));
            tokio::time::sleep(Duration::from_millis(2)).await;
            turn.failed(&ApiError::unavailable("away"));
            drop(turn);
        });
        assert_eq!(status(waited), Some(StatusCode::SERVICE_UNAVAILABLE));
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(matches!(wanted().await, Ok(Found::Turn(_))), "it has failed before");
    }

    #[test]
    fn those_that_are_asked_for_stay_while_others_come_and_go() {
        let cache = Cache::default();
        let popular = cache.slot("popular".to_owned(), Coding::Gzip);
        popular.latest.send_modify(|latest| latest.written = Some(Arc::new(held(1))));
        for number in 0..10 * KEPT_LISTS {
            let other = cache.slot(number.to_string(), Coding::Gzip);
            cache.weigh(&other, MIB);
            let again = cache.slot("popular".to_owned(), Coding::Gzip);
            assert!(Arc::ptr_eq(&popular, &again), "{number}");
            // It counts once, however often it is written.
            cache.weigh(&again, 4 * MIB);
            assert!(cache.0.lock().bytes <= KEPT_BYTES);
        }
        let bytes = cache.0.lock().by_key.values().map(|kept| kept.bytes).sum::<usize>();
        assert!(bytes == cache.0.lock().bytes && bytes > KEPT_BYTES - MIB, "{bytes}");
        let empty = Cache::default();
        (0..KEPT_LISTS + 9).for_each(|n| drop(empty.slot(n.to_string(), Coding::Identity)));
        assert_eq!(empty.0.lock().by_key.len(), KEPT_LISTS);
    }

    #[test]
    fn memory_is_freed_one_by_one_from_the_one_that_was_not_asked_for_the_longest() {
        let cache = Cache::default();
        for (name, bytes) in [("old", MIB), ("small", SMALL_BYTES), ("new", MIB)] {
            let slot = cache.slot(name.to_owned(), Coding::Identity);
            cache.weigh(&slot, bytes);
        }
        let is_kept = |name| cache.find(name, Coding::Identity).is_some();
        assert!(cache.forget_one() && !is_kept("old") && is_kept("new"));
        assert!(cache.forget_one() && !is_kept("new") && is_kept("small"));
        assert!(!cache.forget_one() && cache.0.lock().bytes == SMALL_BYTES);
    }
}
