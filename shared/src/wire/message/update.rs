//! One status update, from a gateway to a worker.

use serde::{Deserialize, Serialize};

use super::{DecodeError, decode, encode};
use crate::{component::Component, impact::Impact, timestamp::Timestamp, update_id::UpdateId};

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
    pub(in crate::wire) fn decode_single(bytes: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice::<Self>(bytes)?.checked()
    }

    fn checked(self) -> Result<Self, DecodeError> {
        if self.impact == Impact::Maintenance { Err(DecodeError::Maintenance) } else { Ok(self) }
    }
}
