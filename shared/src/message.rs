//! The messages between gateway and worker, JSON with a version.
//!
//! A reader accepts exactly the versions it knows: what it does not know is parked by a worker and
//! passed over by a gateway, so that a rolling upgrade loses nothing.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    component::Component,
    impact::Impact,
    incident::{IncidentId, IncidentSnapshot},
    outcome::Reason,
    timestamp::Timestamp,
    update::UpdateId,
};

/// The version that this program writes and reads.
pub const VERSION: u16 = 1;

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

/// What became of one status update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateResult {
    /// Which update.
    pub id: UpdateId,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a status update.
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
    /// It could not be applied and stands parked for an operator.
    Parked,
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
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of the form.
    #[error("the message is not of the form of version {VERSION}: {0}")]
    Malformed(serde_json::Error),
    /// A version that this program does not know.
    #[error("the message has version {0}, this program knows {VERSION}")]
    Version(u16),
    /// A status update that asks for a maintenance.
    #[error("a status update can't have impact 0 (maintenance)")]
    Maintenance,
}

fn encode<T: Serialize>(body: T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "our own types have string keys and no failing parts")]
    serde_json::to_vec(&Versioned { v: VERSION, body }).expect("our own types serialize")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let Version { v } = serde_json::from_slice(bytes).map_err(DecodeError::Malformed)?;
    if v != VERSION {
        return Err(DecodeError::Version(v));
    }
    // Not as one with the version: `flatten` copies all of it before it reads it.
    serde_json::from_slice(bytes).map_err(DecodeError::Malformed)
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
        let message: Self = decode(bytes)?;
        if message.impact == Impact::Maintenance {
            return Err(DecodeError::Maintenance);
        }
        Ok(message)
    }
}

impl ReplyMessage {
    /// As bytes for the broker.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From the broker's bytes.
    ///
    /// # Errors
    /// When the bytes are not a reply of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::{Attribute, ComponentId};

    fn message() -> UpdateMessage {
        UpdateMessage {
            id: UpdateId(uuid::Uuid::nil()),
            component: Component {
                id: ComponentId(7),
                name: "DNS".to_owned(),
                attributes: vec![Attribute { name: "region".to_owned(), value: "R1".to_owned() }],
            },
            impact: Impact::Major,
            text: "Slow".to_owned(),
            received_at: Timestamp::from_micros(1).expect("in range"),
            idempotency: None,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(UpdateMessage::decode(&message().encode()).expect("decodes"), message());
    }

    #[test]
    fn other_versions_and_other_bytes_are_told_apart() {
        let newer = String::from_utf8(message().encode())
            .expect("JSON is UTF-8")
            .replacen("\"v\":1", "\"v\":2", 1);
        assert!(matches!(UpdateMessage::decode(newer.as_bytes()), Err(DecodeError::Version(2))));
        assert!(matches!(UpdateMessage::decode(b"{"), Err(DecodeError::Malformed(_))));
        assert!(matches!(UpdateMessage::decode(b"{\"v\":1}"), Err(DecodeError::Malformed(_))));
        let maintenance = UpdateMessage { impact: Impact::Maintenance, ..message() };
        assert!(matches!(
            UpdateMessage::decode(&maintenance.encode()),
            Err(DecodeError::Maintenance)
        ));
    }
}
