//! Deferred updates: those that need rows which another session has locked, and those queued after them.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use shared::{
    domain::{component::ComponentId, update_id::UpdateId},
    wire::message::UpdateMessage,
};
use tokio::time::Instant;

use super::message::Incoming;

/// Most transactions of other programs are as short as ours.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What must not be applied before the deferred updates: their redeliveries, later updates of their
/// components, and updates with their idempotency keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocked {
    updates: HashSet<UpdateId>,
    components: HashSet<ComponentId>,
    keys: HashSet<String>,
}

impl Blocked {
    /// Adds a deferred update.
    pub(crate) fn add(&mut self, update: &UpdateMessage) {
        self.updates.insert(update.id);
        self.components.insert(update.component.id);
        self.keys.extend(update.idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
    }

    /// Whether this message must wait.
    pub(crate) fn blocks(&self, incoming: &Incoming) -> bool {
        match &incoming.content {
            Ok(update) => {
                let key = update.idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
                self.components.contains(&update.component.id)
                    || key.is_some_and(|key| self.keys.contains(key))
            }
            Err(_) => incoming.update_id().is_some_and(|id| self.updates.contains(&id)),
        }
    }
}

/// A queue of deferred messages, in order of arrival. They are retried after a pause that grows while
/// none of them can be applied.
pub(crate) struct DeferredQueue<T> {
    messages: VecDeque<T>,
    blocked: Blocked,
    pause: Duration,
    due: Instant,
}

/// An item of the queue.
pub(crate) trait Deferrable {
    /// The message itself.
    fn incoming(&self) -> &Incoming;

    /// Its place among all messages.
    fn arrived(&self) -> u64;
}

impl<T: Deferrable> DeferredQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            blocked: Blocked::default(),
            pause: FIRST_PAUSE,
            due: Instant::now(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.messages.iter()
    }

    /// When they are due to be retried.
    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    /// Removes up to `most` messages from the head, to retry them.
    pub(crate) fn take(&mut self, most: usize) -> Vec<T> {
        self.messages.drain(..most.min(self.messages.len())).collect()
    }

    /// Returns the messages that were retried and deferred again to the head, in their order.
    pub(crate) fn defer_again(&mut self, deferred: Vec<T>, tried: usize) {
        let is_progress = deferred.len() < tried;
        self.pause = if is_progress { FIRST_PAUSE } else { (self.pause * 2).min(MAX_PAUSE) };
        self.due = Instant::now() + self.pause;
        for message in deferred.into_iter().rev() {
            self.messages.push_front(message);
        }
        self.blocked = Blocked::default();
        for message in &self.messages {
            if let Ok(update) = &message.incoming().content {
                self.blocked.add(update);
            }
        }
    }

    /// Adds newly deferred messages. Those that had to wait for others may be here already, though they
    /// arrived later.
    pub(crate) fn add(&mut self, deferred: Vec<T>) {
        if self.messages.is_empty() && !deferred.is_empty() {
            self.pause = FIRST_PAUSE;
            self.due = Instant::now() + self.pause;
        }
        for message in deferred {
            if let Ok(update) = &message.incoming().content {
                self.blocked.add(update);
            }
            self.messages.push_back(message);
        }
        self.messages.make_contiguous().sort_by_key(T::arrived);
    }

    /// Keeps the messages that must wait for deferred ones; returns the rest.
    pub(crate) fn keep_blocked(&mut self, messages: Vec<T>) -> Vec<T> {
        if self.is_empty() {
            return messages;
        }
        let (waiting, free) =
            messages.into_iter().partition(|message| self.blocked.blocks(message.incoming()));
        self.add(waiting);
        free
    }
}
