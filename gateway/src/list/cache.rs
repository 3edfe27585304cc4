//! Lists as they were last written. Each is written once for all who ask for the same state of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::HeaderValue;
use bytes::Bytes;

use super::{Coding, version::Version};

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

/// Where a list is written: whoever has the lock writes, the others wait and find it.
pub(super) type Slot = Arc<tokio::sync::Mutex<Option<Written>>>;

#[derive(Default)]
struct Slots {
    slots: HashMap<(String, Coding), Slot>,
    /// Bytes that were put into them.
    bytes: usize,
}

/// The lists that were asked for lately.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Slots>);

impl Cache {
    /// The slot of a list; `list` says which one, and everything that its content depends on.
    pub(super) fn slot(&self, list: String, coding: Coding) -> Slot {
        let mut slots = self.slots();
        let key = (list, coding);
        if slots.slots.len() >= KEPT_LISTS && !slots.slots.contains_key(&key) {
            *slots = Slots::default();
        }
        slots.slots.entry(key).or_default().clone()
    }

    /// Makes room for so many bytes more.
    pub(super) fn make_room(&self, bytes: usize) {
        let mut slots = self.slots();
        slots.bytes += bytes;
        if slots.bytes > KEPT_BYTES {
            *slots = Slots { slots: HashMap::new(), bytes };
        }
    }

    /// Forgets all: those that readers still have live on with them.
    pub(super) fn clear(&self) {
        *self.slots() = Slots::default();
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        // A map of slots is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
