//! An update that is handed to a lane, and the ticket with which its request waits for the confirmation.

use std::sync::Arc;

use parking_lot::Mutex;
use shared::{
    domain::update_id::UpdateId,
    wire::{envelope::Entry, marker},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::PublishError;

/// What a lane sends, unless it was withdrawn: either side takes it out at most once.
pub(super) type Unsent = Arc<Mutex<Option<Entry>>>;

/// An update that is handed to a lane.
pub(super) struct Queued {
    pub(super) id: UpdateId,
    pub(super) bytes: usize,
    /// Whether it is a marker instead, which is sent alone.
    pub(super) is_marker: bool,
    pub(super) unsent: Unsent,
    /// When its client is answered.
    pub(super) deadline: Instant,
    pub(super) confirmed: oneshot::Sender<Result<(), PublishError>>,
}

/// An update on its way through a lane.
pub(super) struct Ticket {
    unsent: Unsent,
    deadline: Instant,
    confirmed: oneshot::Receiver<Result<(), PublishError>>,
}

/// An update for a lane, and its ticket.
pub(super) fn queued(id: UpdateId, entry: Entry, deadline: Instant) -> (Queued, Ticket) {
    let bytes = entry.message.len();
    let unsent = Arc::new(Mutex::new(Some(entry)));
    let (sender, confirmed) = oneshot::channel();
    let ticket = Ticket { unsent: unsent.clone(), deadline, confirmed };
    (Queued { id, bytes, is_marker: false, unsent, deadline, confirmed: sender }, ticket)
}

/// A marker for a lane, and its ticket.
pub(super) fn marker(id: UpdateId, deadline: Instant) -> (Queued, Ticket) {
    let message = br#"{"marker":"a gateway: shows that the queue takes messages"}"#.to_vec();
    let (queued, ticket) = queued(id, Entry { message, wants_reply: false, trace: None }, deadline);
    (Queued { is_marker: true, ..queued }, ticket)
}

impl Queued {
    /// What RabbitMQ shows as the type of a message that has only this.
    pub(super) const fn kind(&self) -> &'static str {
        if self.is_marker { marker::TYPE } else { "status-update" }
    }
}

impl Ticket {
    /// Waits for RabbitMQ's confirmation until the deadline. An update that has not been sent by then
    /// never is. If this is dropped before, the update is still published.
    pub(super) async fn confirmed(self) -> Result<(), PublishError> {
        let Self { unsent, deadline, confirmed } = self;
        let ended = match timeout_at(deadline, confirmed).await {
            Ok(Ok(confirmed)) => return confirmed,
            // The lane has ended, unless it found the deadline passed.
            Ok(Err(_)) if Instant::now() < deadline => PublishError::Absent,
            Ok(Err(_)) | Err(_) => PublishError::Late,
        };
        if unsent.lock().take().is_some() { Err(ended) } else { Err(PublishError::Unconfirmed) }
    }
}
