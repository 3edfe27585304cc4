//! The messages between gateway and worker, JSON with a version.
//!
//! A program reads the versions from [`OLDEST`] to [`NEWEST`]. It writes up to the version that the
//! database records with the topology, which is raised only once all live workers read it: so two
//! releases can run side by side. A worker parks a message of any other version, and a gateway ignores
//! it, so that nothing is lost. Readers ignore unknown fields, and a gateway ignores unreadable results;
//! so fields and words may be added within a version, but not renamed or removed. `shared/tests/wire`
//! pins the bytes.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    component::Component,
    impact::Impact,
    incident::{IncidentId, IncidentSnapshot},
    outcome::Reason,
    timestamp::Timestamp,
    update_id::UpdateId,
};

/// The version of a single update and of a reply.
pub const VERSION: u16 = 1;
/// The oldest version that this program reads.
pub const OLDEST: u16 = 1;
/// The newest version that this program reads and writes: that of an envelope. The
/// [topology](crate::topology::Topology) records which one gateways may write.
pub const NEWEST: u16 = 2;

/// One status update on its way from gateway to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateMessage {
    /// Its id.
    pub id: UpdateId,
    /// The component as the gateway's catalogue had it; the worker checks that the id still means it.
    pub component: Component,
    /// The reported impact, never `Maintenance`.
    pub impact: Impact,
    /// The title of an incident that this update opens.
    pub text: String,
    /// When the gateway received it, by the database's clock as the gateway knew it.
    pub received_at: Timestamp,
    /// The client's idempotency key, if it sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
}

/// An idempotency key and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// As the client sent it.
    pub key: String,
    /// SHA-256, in hex, of the meaning of the body: component id, impact and text.
    pub fingerprint: String,
}

/// The outcomes of one batch for one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyMessage {
    /// One for each of the gateway's updates in the batch.
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
/// An [`Outcome`](crate::outcome::Outcome) is only what a rule decided. A verdict also says that there is
/// none, and has the incident for the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Verdict {
    /// Decided in this batch.
    Decided {
        /// By which rule, and so with which outcome.
        reason: Reason,
        /// The incident that now holds or covers the component, as it stood right after.
        incident: IncidentSnapshot,
    },
    /// Decided before: a redelivery, or another update with the same idempotency key.
    Repeated {
        /// The update that was decided then; this one itself for a redelivery.
        original: UpdateId,
        /// By which rule.
        reason: Reason,
        /// The incident that held or covered the component.
        incident: IncidentId,
    },
    /// Its idempotency key was used for another body.
    Rejected,
    /// It could not be applied and is parked for an operator.
    Parked,
}

impl Verdict {
    /// The incident that it names.
    #[must_use]
    pub const fn incident(&self) -> Option<IncidentId> {
        match self {
            Self::Decided { incident, .. } => Some(incident.id),
            Self::Repeated { incident, .. } => Some(*incident),
            Self::Rejected | Self::Parked => None,
        }
    }
}

#[derive(Deserialize)]
struct Version {
    v: u16,
}

#[derive(Serialize)]
struct Versioned<T> {
    v: u16,
    #[serde(flatten)]
    body: T,
}

/// Why the bytes of a message are not a message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of the form.
    #[error("the message is not of the form of version {OLDEST} or {NEWEST}: {0}")]
    Malformed(Arc<serde_json::Error>),
    /// A version that this program does not know.
    #[error("the message has version {0}, this program reads {OLDEST} to {NEWEST}")]
    Version(u16),
    /// An envelope where a single message must stand.
    #[error("an envelope stands where a single message must stand")]
    Envelope,
    /// An envelope without updates.
    #[error("the envelope has no entries")]
    Empty,
    /// A status update that asks for a maintenance.
    #[error("a status update can't have impact 0 (maintenance)")]
    Maintenance,
}

fn encode<T: Serialize>(body: T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "our own types have string keys and no failing parts")]
    serde_json::to_vec(&Versioned { v: VERSION, body }).expect("our own types serialize")
}

/// The version of a message.
///
/// # Errors
/// When the bytes have none, or one that this program does not know.
pub(super) fn version(bytes: &[u8]) -> Result<u16, DecodeError> {
    let Version { v } = serde_json::from_slice(bytes)?;
    if (OLDEST..=NEWEST).contains(&v) { Ok(v) } else { Err(DecodeError::Version(v)) }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if version(bytes)? != VERSION {
        return Err(DecodeError::Envelope);
    }
    // Separate from the version: `flatten` would copy everything first.
    Ok(serde_json::from_slice(bytes)?)
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(Arc::new(error))
    }
}

impl UpdateMessage {
    /// As bytes for the broker.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From the broker's bytes.
    ///
    /// # Errors
    /// When the bytes are not a status update of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode::<Self>(bytes)?.checked()
    }

    /// From bytes whose version is known to be that of a single update.
    pub(super) fn decode_single(bytes: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice::<Self>(bytes)?.checked()
    }

    fn checked(self) -> Result<Self, DecodeError> {
        if self.impact == Impact::Maintenance { Err(DecodeError::Maintenance) } else { Ok(self) }
    }
}

impl ReplyMessage {
    /// As bytes for the broker.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
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

        // All at once if all are readable: copying each result costs time.
        match decode(bytes) {
            Ok(reply) => return Ok((reply, 0)),
            Err(DecodeError::Malformed(_)) => {}
            Err(
                other @ (DecodeError::Version(_)
                | DecodeError::Envelope
                | DecodeError::Empty
                | DecodeError::Maintenance),
            ) => return Err(other),
        }
        let Results { results: all } = decode(bytes)?;
        let count = all.len();
        let results: Vec<UpdateResult> =
            all.into_iter().filter_map(|result| serde_json::from_value(result).ok()).collect();
        let left_out = count - results.len();
        Ok((Self { results }, left_out))
    }
}

#[cfg(test)]
pub(super) mod tests;
