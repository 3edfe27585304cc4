//! The messages between gateway and worker, JSON with a version.
//!
//! A program reads the versions from [`OLDEST`] to [`NEWEST`]. It writes up to the version that the
//! database records with the topology, which is raised only once all live workers read it: so two
//! releases can run side by side. A worker parks a message of any other version, and a gateway ignores
//! it, so that nothing is lost. Readers ignore unknown fields, and a gateway ignores unreadable results;
//! so fields and words may be added within a version, but not renamed or removed. `shared/tests/wire`
//! pins the bytes.

mod reply;
mod report;
#[cfg(test)]
pub(super) mod tests;
mod update;

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::{
    reply::{ReplyMessage, UpdateResult, Verdict},
    report::{MAX_REPORT_NAME, Report, is_source},
    update::{Idempotency, UpdateMessage},
};

/// The version of a single update without a report, and of a reply.
pub const VERSION: u16 = 1;
/// The version of a single update with a [`Report`]: only it can say `ok`.
pub const REPORTS: u16 = 3;
/// The oldest version that this program reads.
pub const OLDEST: u16 = 1;
/// The newest version that this program reads and writes. The [topology](crate::amqp::topology::Topology)
/// records which one gateways may write.
pub const NEWEST: u16 = REPORTS;

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
    #[error("the message is not of the form of a version from {OLDEST} to {NEWEST}: {0}")]
    Malformed(Arc<serde_json::Error>),
    /// A version that this program does not know.
    #[error("the message has version {0}, this program reads {OLDEST} to {NEWEST}")]
    Version(u16),
    /// An envelope where a single message must stand.
    #[error("an envelope where a single message is expected")]
    Envelope,
    /// An envelope without updates.
    #[error("the envelope has no entries")]
    Empty,
    /// `ok` in a version that has no reports.
    #[error("the message is not of the form of version {VERSION}: it says `ok`")]
    OkOfNobody,
    /// The version that has reports, without one.
    #[error("the message is not of the form of version {REPORTS}: it has no report")]
    NoReport,
    /// A status update that asks for a maintenance.
    #[error("a status update can't have impact 0 (maintenance)")]
    Maintenance,
}

fn encode<T: Serialize>(v: u16, body: T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "our own types have string keys and no failing parts")]
    serde_json::to_vec(&Versioned { v, body }).expect("our own types serialize")
}

/// The version of a message.
///
/// # Errors
/// When the bytes have none, or one that this program does not know.
pub(super) fn version(bytes: &[u8]) -> Result<u16, DecodeError> {
    let Version { v } = serde_json::from_slice(bytes)?;
    if (OLDEST..=NEWEST).contains(&v) { Ok(v) } else { Err(DecodeError::Version(v)) }
}

/// From bytes whose version is known: `flatten` would copy everything first.
fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    Ok(serde_json::from_slice(bytes)?)
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(Arc::new(error))
    }
}
