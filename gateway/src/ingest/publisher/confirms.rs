//! What RabbitMQ confirmed, and what it returned since no queue took it.
//!
//! RabbitMQ returns an update that has no queue, and then confirms it. lapin hands a return to the
//! next publish of the channel that is confirmed, whichever that is. So the confirmations of a channel
//! are looked at together: a return names its update, and an update counts as queued only once no
//! confirmation that came before its own can still hold its return.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use lapin::{Confirmation, PublisherConfirm};
use shared::update_id::UpdateId;

/// What RabbitMQ did with an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It is queued, on disk.
    Queued,
    /// It was refused, and is not queued.
    Refused,
    /// No queue takes it, and it is not queued.
    Returned,
    /// Nobody knows: a confirmation of its own came with the return of another update.
    Unknown,
    /// Nobody knows: the channel failed first.
    Failed,
}

/// The publishes of one channel that are not confirmed yet. Generic over the confirmation's future
/// for the sake of its tests.
pub(super) struct Unconfirmed<F = PublisherConfirm>(Mutex<Inner<F>>);

struct Inner<F> {
    /// By the id that is also in the message's properties, which a return brings back.
    publishes: HashMap<UpdateId, Publish<F>>,
    /// Updates that were returned and are not settled.
    returned: HashSet<UpdateId>,
    /// Whether a publish is being issued, whose confirmation may come before it is known here.
    issuing: bool,
}

struct Publish<F> {
    state: State<F>,
    waker: Waker,
    /// Nobody waits for it any more. It is kept, since it may hold the return of another one.
    is_abandoned: bool,
}

enum State<F> {
    Pending(F),
    /// Confirmed, but another confirmation may still hold its return.
    Seen(Seen),
    Settled(Confirmed),
}

/// How a publish was confirmed.
#[derive(Clone, Copy)]
enum Seen {
    Ack { with_a_return: bool },
    Nack,
    Failure,
}

impl<F> Default for Unconfirmed<F> {
    fn default() -> Self {
        let (publishes, returned) = (HashMap::new(), HashSet::new());
        Self(Mutex::new(Inner { publishes, returned, issuing: false }))
    }
}

impl<F> Unconfirmed<F>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    /// Marks that a publish is being issued. The caller has the channel to itself until then.
    pub(super) fn issue(self: Arc<Self>, id: UpdateId) -> Issuing<F> {
        self.lock().issuing = true;
        Issuing { unconfirmed: self, id }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<F>> {
        // Each publish is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A publish that is being issued.
pub(super) struct Issuing<F = PublisherConfirm>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    unconfirmed: Arc<Unconfirmed<F>>,
    id: UpdateId,
}

impl<F> Issuing<F>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    /// It was issued: waits for what RabbitMQ does with it.
    pub(super) fn confirmed_by(self, confirm: F) -> Confirming<F> {
        let state = State::Pending(confirm);
        let publish = Publish { state, waker: Waker::noop().clone(), is_abandoned: false };
        self.unconfirmed.lock().publishes.insert(self.id, publish);
        Confirming { unconfirmed: self.unconfirmed.clone(), id: self.id }
    }
}

impl<F> Drop for Issuing<F>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    fn drop(&mut self) {
        let mut inner = self.unconfirmed.lock();
        inner.issuing = false;
        // Others may have waited for this one.
        if inner.publishes.values().any(|publish| matches!(publish.state, State::Seen(_))) {
            inner.look(None);
        }
    }
}

/// A publish that waits for its confirmation.
pub(super) struct Confirming<F = PublisherConfirm>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    unconfirmed: Arc<Unconfirmed<F>>,
    id: UpdateId,
}

impl<F> Future for Confirming<F>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    type Output = Confirmed;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Confirmed> {
        let mut inner = self.unconfirmed.lock();
        match inner.publishes.get_mut(&self.id) {
            Some(Publish { state: State::Settled(_), .. }) => {}
            Some(publish) => {
                publish.waker.clone_from(context.waker());
                inner.look(Some(self.id));
            }
            None => return Poll::Ready(Confirmed::Failed),
        }
        match inner.publishes.get(&self.id).map(|publish| &publish.state) {
            Some(State::Settled(confirmed)) => {
                let confirmed = *confirmed;
                inner.forget(self.id);
                Poll::Ready(confirmed)
            }
            Some(State::Pending(_) | State::Seen(_)) => Poll::Pending,
            None => Poll::Ready(Confirmed::Failed),
        }
    }
}

impl<F> Drop for Confirming<F>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    fn drop(&mut self) {
        let mut inner = self.unconfirmed.lock();
        if let Some(publish) = inner.publishes.get_mut(&self.id) {
            if matches!(publish.state, State::Settled(_)) {
                inner.forget(self.id);
            } else {
                publish.is_abandoned = true;
                publish.waker = Waker::noop().clone();
            }
        }
    }
}

impl<F> Inner<F>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    fn forget(&mut self, id: UpdateId) {
        self.publishes.remove(&id);
        if self.publishes.is_empty() && !self.issuing {
            // Of those that were settled as unknown.
            self.returned.clear();
        }
    }

    /// Looks at all confirmations that came, and settles what can be. All but `mine` are woken.
    fn look(&mut self, mine: Option<UpdateId>) {
        // lapin resolves confirmations one after the other. When a pass over all finds nothing new,
        // each that was resolved before one of those found is found as well.
        while self.look_once() {}
        if self.issuing {
            return;
        }
        let returned = &mut self.returned;
        self.publishes.retain(|id, publish| {
            let State::Seen(seen) = publish.state else { return true };
            let confirmed = match seen {
                _ if returned.remove(id) => Confirmed::Returned,
                Seen::Ack { with_a_return: false } => Confirmed::Queued,
                Seen::Ack { with_a_return: true } => Confirmed::Unknown,
                Seen::Nack => Confirmed::Refused,
                Seen::Failure => Confirmed::Failed,
            };
            publish.state = State::Settled(confirmed);
            if mine != Some(*id) {
                publish.waker.wake_by_ref();
            }
            !publish.is_abandoned
        });
    }

    /// Whether one pass over all found a confirmation.
    fn look_once(&mut self) -> bool {
        let mut found = false;
        for publish in self.publishes.values_mut() {
            let State::Pending(confirm) = &mut publish.state else { continue };
            let mut context = Context::from_waker(&publish.waker);
            let Poll::Ready(confirmation) = Pin::new(confirm).poll(&mut context) else { continue };
            found = true;
            let (seen, message) = match confirmation {
                Ok(Confirmation::Ack(message)) => {
                    (Seen::Ack { with_a_return: message.is_some() }, message)
                }
                Ok(Confirmation::Nack(message)) => (Seen::Nack, message),
                Ok(Confirmation::NotRequested) | Err(_) => (Seen::Failure, None),
            };
            publish.state = State::Seen(seen);
            let id = message.and_then(|message| {
                let id = message.delivery.properties.message_id().as_ref()?;
                id.as_str().parse().ok().map(UpdateId)
            });
            self.returned.extend(id);
        }
        found
    }
}
