//! One status update, from a gateway to a worker.

use serde::{Deserialize, Serialize};

use super::{DecodeError, REPORTS, Report, VERSION, decode_body, encode, version};
use crate::domain::{
    component::Component, condition::Condition, impact::Impact, timestamp::Timestamp,
    update_id::UpdateId,
};

/// One status update on its way from gateway to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateMessage {
    /// Its id.
    pub id: UpdateId,
    /// The component as the gateway's catalogue had it; the worker checks that the id still means it.
    pub component: Component,
    /// What it says of the component, never the impact `Maintenance`.
    #[serde(rename = "impact")]
    pub condition: Condition,
    /// The title of an incident that this update opens.
    pub text: String,
    /// When the gateway received it, by the database's clock as the gateway knew it.
    pub received_at: Timestamp,
    /// The client's idempotency key, if it sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// Whose report it is; none for an update of version 1, which can't say `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// An idempotency key and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// As the client sent it.
    pub key: String,
    /// SHA-256, in hex, of the meaning of the body: component id, impact or `ok`, text, and the
    /// parts of the report that the client gave.
    pub fingerprint: String,
}

impl UpdateMessage {
    /// As bytes for the broker.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self.version(), self)
    }

    /// The version that it is written in.
    #[must_use]
    pub const fn version(&self) -> u16 {
        if self.report.is_some() { REPORTS } else { VERSION }
    }

    /// Whose report it is, if it has one.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        self.report.as_ref().map(|report| report.source.as_str())
    }

    /// From the broker's bytes.
    ///
    /// # Errors
    /// When the bytes are not a status update of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_version(version(bytes)?, bytes)
    }

    /// From bytes of this version.
    pub(in crate::wire) fn decode_version(v: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let update: Self = match v {
            VERSION | REPORTS => decode_body(bytes)?,
            _ => return Err(DecodeError::Envelope),
        };
        match (v, update.condition, &update.report) {
            (_, Condition::Impact(Impact::Maintenance), _) => Err(DecodeError::Maintenance),
            (VERSION, Condition::Ok, _) => Err(DecodeError::OkOfNobody),
            // A reader of that version does not know the field.
            (VERSION, Condition::Impact(_), _) => Ok(Self { report: None, ..update }),
            (_, _, None) => Err(DecodeError::NoReport),
            (_, _, Some(_)) => Ok(update),
        }
    }
}
