//! The messages of a batch.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use shared::{
    domain::{incident::IncidentId, update_id::UpdateId},
    telemetry::traces::Processing,
    wire::message::{DecodeError, UpdateMessage, Verdict},
};

use crate::{
    domain::IncidentRef,
    store::{incident_row_locks::LockableRow, parked::MessageToPark},
};

/// A message, decoded separately: an unreadable one does not affect others.
#[derive(Debug)]
pub struct Incoming {
    /// The queue that delivered it.
    pub queue: Arc<str>,
    /// The message id set by its publisher.
    pub message_id: Option<String>,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Its decoded content.
    pub content: Result<UpdateMessage, Unusable>,
    /// Its span, if traces are enabled.
    pub trace: Option<Arc<Processing>>,
}

/// Why a message can't be applied.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its bytes are not a valid update.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// It comes from the dead-letter queue.
    #[error("dead-lettered by RabbitMQ: {0}")]
    GivenUp(String),
    /// The database refused it repeatedly.
    #[error("the database refuses it: {0}")]
    Refused(String),
}

impl Incoming {
    /// The update's id. The gateway also sets it as the message id, so that it is known even if the bytes
    /// can't be read.
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
            // The publisher of an unreadable message may have used the same id for others.
            (_, _, Some(id)) => format!("{id} {}", digest(&self.payload)),
            (_, _, None) => digest(&self.payload),
        };
        // PostgreSQL's text can't contain NUL, but an unreadable message can.
        let [delivery_key, reason] = [&*delivery_key, reason].map(|text| text.replace('\0', "␀"));
        let Self { queue, payload, trace, .. } = self;
        MessageToPark { delivery_key, update_id, queue, reason, payload, trace: trace.as_deref() }
    }
}

/// What became of one message of a batch: the [`Verdict`] for its gateway, or that there is none yet, which no
/// reply says. While the batch is planned, `Id` is an [`IncidentRef`]: the incidents that it opens get their ids
/// when they are written.
#[derive(Clone, Debug)]
pub enum MessageResult<Id = IncidentId> {
    /// It is applied, parked or ignored, now or before: it can be acknowledged. There is no verdict if a
    /// version decided it whose rules this one does not know.
    Settled(Option<Verdict<Id>>),
    /// Another session has locked these rows that it needs, or an earlier update of its component or
    /// idempotency key was deferred. Nothing was written: it must be retried before any
    /// later update of its component.
    Deferred(Vec<LockableRow>),
}

impl MessageResult<IncidentRef> {
    /// The result of a message that an earlier batch settled.
    pub(super) fn settled_before(verdict: Option<&Verdict>) -> Self {
        Self::Settled(verdict.map(|verdict| verdict.clone().with_id(IncidentRef::Existing)))
    }

    /// The result of a repetition of this update.
    pub(super) fn repeated(&self, update: UpdateId) -> Self {
        match self {
            Self::Settled(Some(Verdict::Decided { reason, incident, .. })) => {
                let (reason, incident) = (*reason, incident.as_ref().map(|shown| shown.id));
                Self::Settled(Some(Verdict::Repeated { original: update, reason, incident }))
            }
            other @ (Self::Settled(_) | Self::Deferred(_)) => other.clone(),
        }
    }

    /// The result once the batch is committed, with the ids of the incidents that it opened.
    pub(super) fn committed(self, new_ids: &[IncidentId]) -> MessageResult {
        match self {
            Self::Settled(verdict) => {
                let with_id = |verdict: Verdict<IncidentRef>| verdict.with_id(|id| id.id(new_ids));
                MessageResult::Settled(verdict.map(with_id))
            }
            Self::Deferred(held) => MessageResult::Deferred(held),
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
