//! What became of the updates of one batch, from a worker to a gateway.

use serde::{Deserialize, Serialize};

use super::{DecodeError, VERSION, decode_body, encode, version};
use crate::domain::{
    incident::{IncidentId, IncidentSnapshot},
    outcome::{Reason, Rejection},
    timestamp::Timestamp,
    update_id::UpdateId,
};

/// The outcomes of one batch for one channel of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyMessage {
    /// One for each update of the batch that was published on the channel and whose outcome is requested.
    pub results: Vec<UpdateResult>,
}

/// The result of one status update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateResult {
    /// Which update.
    pub id: UpdateId,
    /// Its result.
    pub verdict: Verdict,
}

/// What became of a status update, as a worker reports it to the gateway that waits.
///
/// An [`Outcome`](crate::domain::outcome::Outcome) is only what a rule decided. A verdict also says that there is
/// none, and has the incident for the answer. `Id` is how incidents are named: on the wire by their ids, which
/// those that a batch opens do not have before its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", bound(deserialize = "Id: Deserialize<'de>"))]
pub enum Verdict<Id = IncidentId> {
    /// Decided in this batch.
    Decided {
        /// By which rule, and so with which outcome.
        reason: Reason,
        /// The incident that now holds or covers the component, or that it left, as it stood right
        /// after. Only an update of version 3 may have none: readers of earlier ones need one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incident: Option<IncidentSnapshot<Id>>,
        /// When. Only a result without an incident has it: the answer to that is the receipt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decided_at: Option<Timestamp>,
    },
    /// Decided before: a redelivery, or another update with the same idempotency key.
    Repeated {
        /// The update that was decided then; this one itself for a redelivery.
        original: UpdateId,
        /// By which rule.
        reason: Reason,
        /// The incident that held or covered the component, or that it left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incident: Option<Id>,
    },
    /// It changed nothing and never will.
    Rejected {
        /// Why.
        #[serde(default, skip_serializing_if = "is_of_the_key")]
        reason: Rejection,
    },
    /// It could not be applied and is parked for an operator.
    Parked,
}

impl Verdict {
    /// The incident that it names.
    #[must_use]
    pub fn incident(&self) -> Option<IncidentId> {
        match self {
            Self::Decided { incident, .. } => Some(incident.as_ref()?.id),
            Self::Repeated { incident, .. } => *incident,
            Self::Rejected { .. } | Self::Parked => None,
        }
    }
}

impl<Id> Verdict<Id> {
    /// The same verdict, with incidents that are named otherwise.
    pub fn with_id<Other>(self, other: impl FnOnce(Id) -> Other) -> Verdict<Other> {
        match self {
            Self::Decided { reason, incident, decided_at } => {
                let incident = incident.map(|incident| incident.with_id(other));
                Verdict::Decided { reason, incident, decided_at }
            }
            Self::Repeated { original, reason, incident } => {
                Verdict::Repeated { original, reason, incident: incident.map(other) }
            }
            Self::Rejected { reason } => Verdict::Rejected { reason },
            Self::Parked => Verdict::Parked,
        }
    }
}

/// Messages have always meant this reason where they name none.
fn is_of_the_key(reason: &Rejection) -> bool {
    *reason == Rejection::KeyOfAnotherBody
}

impl ReplyMessage {
    /// As bytes for the broker.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(VERSION, self)
    }

    /// From the broker's bytes, with the number of results that can't be read and are left out: a
    /// newer worker may have words that this program does not know.
    ///
    /// # Errors
    /// When the bytes are not a reply of a known version.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        #[derive(Deserialize)]
        struct Results {
            results: Vec<serde_json::Value>,
        }

        if version(bytes)? != VERSION {
            return Err(DecodeError::Envelope);
        }
        // All at once if all are readable: copying each result costs time.
        if let Ok(reply) = decode_body(bytes) {
            return Ok((reply, 0));
        }
        let Results { results: all } = decode_body(bytes)?;
        let count = all.len();
        let results: Vec<UpdateResult> =
            all.into_iter().filter_map(|result| serde_json::from_value(result).ok()).collect();
        let left_out = count - results.len();
        Ok((Self { results }, left_out))
    }
}
