//! Publisher confirms, and returns of unroutable messages.
//!
//! RabbitMQ returns an unroutable message, and then confirms it. lapin attaches a return to the next
//! publish of the channel that is confirmed, whichever that is. So the confirmations of a channel are
//! examined together: a return names its message, and a message counts as queued only once no earlier
//! confirmation can still hold its return.

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    pin::Pin,
    task::{Context, Poll},
};

use lapin::{Confirmation, PublisherConfirm};
use shared::domain::update_id::UpdateId;

/// What RabbitMQ did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It is in a queue, on disk.
    Queued,
    /// It was refused, and is not queued.
    Refused,
    /// It was unroutable, and is not queued.
    Returned,
    /// Unknown: its confirmation carried the return of another message.
    Unknown,
    /// Unknown: the channel failed first.
    Failed,
}

/// The unconfirmed publishes of one channel, each with data of its sender. Generic over the
/// confirmation's future, for tests.
pub(super) struct Unconfirmed<T, F = PublisherConfirm> {
    publishes: Vec<Publish<T, F>>,
    /// Messages that were returned and whose confirmation is outstanding.
    returned: HashSet<UpdateId>,
}

struct Publish<T, F> {
    /// The id in the message's properties, which a return includes.
    id: UpdateId,
    kept: T,
    state: ConfirmState<F>,
}

enum ConfirmState<F> {
    Pending(F),
    /// Confirmed, but another confirmation may still hold its return.
    Seen(Seen),
}

/// How a publish was confirmed.
#[derive(Clone, Copy)]
enum Seen {
    Ack { with_a_return: bool },
    Nack,
    Failure,
}

impl<T, F> Default for Unconfirmed<T, F> {
    fn default() -> Self {
        Self { publishes: Vec::new(), returned: HashSet::new() }
    }
}

impl<T, F> Unconfirmed<T, F>
where
    F: Future<Output = lapin::Result<Confirmation>> + Unpin,
{
    /// Adds a publish. Confirmations must not be examined while one is being issued: its confirmation may
    /// arrive with the return of another message before it has been added.
    pub(super) fn add(&mut self, id: UpdateId, kept: T, confirm: F) {
        self.publishes.push(Publish { id, kept, state: ConfirmState::Pending(confirm) });
    }

    pub(super) fn len(&self) -> usize {
        self.publishes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.publishes.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.publishes.iter().map(|publish| &publish.kept)
    }

    /// Gives up the unconfirmed messages; they may be queued or not.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = T> {
        self.returned.clear();
        self.publishes.drain(..).map(|publish| publish.kept)
    }

    /// Waits until some are confirmed, and takes them out.
    pub(super) async fn confirmed(&mut self) -> Vec<(T, Confirmed)> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Vec<(T, Confirmed)>> {
        // lapin resolves confirmations one after the other. When a pass over all of them finds nothing
        // new, all that were resolved before the last one have been found.
        while self.look_once(context) {}
        let mut confirmed = Vec::new();
        let mut place = 0;
        while let Some(publish) = self.publishes.get(place) {
            let ConfirmState::Seen(seen) = publish.state else {
                place += 1;
                continue;
            };
            let what = match seen {
                _ if self.returned.remove(&publish.id) => Confirmed::Returned,
                Seen::Ack { with_a_return: false } => Confirmed::Queued,
                Seen::Ack { with_a_return: true } => Confirmed::Unknown,
                Seen::Nack => Confirmed::Refused,
                Seen::Failure => Confirmed::Failed,
            };
            confirmed.push((self.publishes.remove(place).kept, what));
        }
        if self.publishes.is_empty() {
            // Of those that count as unknown.
            self.returned.clear();
        }
        if confirmed.is_empty() { Poll::Pending } else { Poll::Ready(confirmed) }
    }

    /// Whether one pass over all found a confirmation.
    fn look_once(&mut self, context: &mut Context<'_>) -> bool {
        let mut found = false;
        for publish in &mut self.publishes {
            let ConfirmState::Pending(confirm) = &mut publish.state else { continue };
            let Poll::Ready(confirmation) = Pin::new(confirm).poll(context) else { continue };
            found = true;
            let (seen, message) = match confirmation {
                Ok(Confirmation::Ack(message)) => {
                    (Seen::Ack { with_a_return: message.is_some() }, message)
                }
                Ok(Confirmation::Nack(message)) => (Seen::Nack, message),
                Ok(Confirmation::NotRequested) | Err(_) => (Seen::Failure, None),
            };
            publish.state = ConfirmState::Seen(seen);
            let id = message.and_then(|message| {
                let id = message.delivery.properties.message_id().as_ref()?;
                id.as_str().parse().ok().map(UpdateId)
            });
            self.returned.extend(id);
        }
        found
    }
}
