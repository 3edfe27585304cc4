//! The messages of a batch, as they came.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use shared::{
    incident::IncidentId,
    message::{DecodeError, UpdateMessage, UpdateResult},
    traces::Processing,
    update_id::UpdateId,
};

use crate::store::parked::MessageToPark;

/// A message as it came, decoded on its own: one that can't be read harms no other.
#[derive(Debug)]
pub struct Incoming {
    /// The queue it came from.
    pub queue: Arc<str>,
    /// The id that its publisher gave the message.
    pub message_id: Option<String>,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// What they say.
    pub content: Result<UpdateMessage, Unusable>,
    /// Its span, when traces are wanted.
    pub trace: Option<Arc<Processing>>,
}

/// Why a message is not tried.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its bytes are not an update's.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// It comes from the dead-letter queue.
    #[error("RabbitMQ gave it up: {0}")]
    GivenUp(String),
    /// The database refused it again and again.
    #[error("the database refuses it: {0}")]
    Refused(String),
}

impl Incoming {
    /// The update's id: the gateway gives it to the message, too, so that it is known even where
    /// the bytes can't be read.
    #[must_use]
    pub fn update_id(&self) -> Option<UpdateId> {
        match &self.content {
            Ok(update) => Some(update.id),
            Err(_) => self.message_id.as_ref()?.parse().ok().map(UpdateId),
        }
    }

    /// The message, to be parked for this reason.
    pub(super) fn parked(&self, reason: &str) -> MessageToPark<'_> {
        let update_id = self.update_id();
        let is_readable = match &self.content {
            Ok(_) => true,
            Err(Unusable::Unreadable(_)) => false,
            Err(Unusable::GivenUp(_) | Unusable::Refused(_)) => {
                UpdateMessage::decode(&self.payload).is_ok()
            }
        };
        let delivery_key = match (is_readable, update_id, &self.message_id) {
            (true, Some(id), _) => id.to_string(),
            // Whoever made a message that can't be read may have given others the same id.
            (_, _, Some(id)) => format!("{id} {}", digest(&self.payload)),
            (_, _, None) => digest(&self.payload),
        };
        // PostgreSQL's text has no NUL, which a message that can't be read may well have.
        let [delivery_key, reason] = [&*delivery_key, reason].map(|text| text.replace('\0', "␀"));
        let Self { queue, payload, trace, .. } = self;
        MessageToPark { delivery_key, update_id, queue, reason, payload, trace: trace.as_deref() }
    }
}

/// What became of one message of a batch.
#[derive(Clone, Debug)]
pub enum Applied {
    /// The transaction settled it. There is no result where nobody can be told: it has no id, or was
    /// decided by a version with rules that this one does not know.
    Settled(Option<UpdateResult>),
    /// Another session holds rows of these incidents, which it needs, or an earlier update of its
    /// component or its idempotency key was deferred. Nothing of it was written: it is to be tried again
    /// before any later one of its component.
    Deferred(Vec<IncidentId>),
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
