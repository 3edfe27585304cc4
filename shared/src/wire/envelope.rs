//! Envelopes: several status updates in one message, version 2.
//!
//! RabbitMQ's costs are per message, so updates that arrive while earlier ones are unconfirmed are sent
//! together. An envelope is only a container: each entry is a complete message of one update, as it would
//! be sent alone, so that it can be parked and requeued alone. Entries are decoded separately: an
//! unreadable one does not affect others.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::{self, DecodeError, UpdateMessage};

/// The version of an envelope.
pub const VERSION: u16 = 2;

/// The message header with the ids of an envelope's updates, in order and separated by commas: they are
/// known even if the body is unreadable.
pub const IDS_HEADER: &str = "sdb-update-ids";

/// One update in an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The message as it would be sent alone, encoded by [`message::UpdateMessage::encode`].
    pub message: Vec<u8>,
    /// Whether the gateway waits for its outcome.
    pub wants_reply: bool,
    /// The trace that its processing continues.
    pub trace: Option<TraceContext>,
}

/// A trace context, as specified by the W3C.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The header `traceparent`.
    pub traceparent: String,
    /// The header `tracestate`, unless it is empty.
    pub tracestate: Option<String>,
}

/// Several updates as one message.
#[must_use]
pub fn encode<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u8> {
    let mut bytes = format!(r#"{{"v":{VERSION},"entries":["#).into_bytes();
    for (place, entry) in entries.into_iter().enumerate() {
        if place > 0 {
            bytes.push(b',');
        }
        bytes.push(b'{');
        if entry.wants_reply {
            bytes.extend_from_slice(br#""reply":true,"#);
        }
        if let Some(TraceContext { traceparent, tracestate }) = &entry.trace {
            push_text(&mut bytes, "traceparent", traceparent);
            if let Some(tracestate) = tracestate {
                push_text(&mut bytes, "tracestate", tracestate);
            }
        }
        bytes.extend_from_slice(br#""message":"#);
        bytes.extend_from_slice(&entry.message);
        bytes.push(b'}');
    }
    bytes.extend_from_slice(b"]}");
    bytes
}

fn push_text(bytes: &mut Vec<u8>, name: &str, text: &str) {
    #[expect(clippy::expect_used, reason = "a text is always JSON")]
    let text = serde_json::to_string(text).expect("a text serializes");
    bytes.extend_from_slice(format!(r#""{name}":{text},"#).as_bytes());
}

/// The content of a message with updates.
#[derive(Debug)]
pub enum Content {
    /// It is a single update.
    Single(Box<UpdateMessage>),
    /// It is an envelope: its entries, each decoded or with its error; at least one.
    Entries(Vec<Result<Entry, UnreadableEntry>>),
}

/// The content of a message with updates.
///
/// # Errors
/// When the bytes are neither of the two, or have a version that this program does not know.
pub fn decode(bytes: &[u8]) -> Result<Content, DecodeError> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        entries: Vec<&'a RawValue>,
    }

    let version = message::version(bytes)?;
    if version != VERSION {
        let update = UpdateMessage::decode_version(version, bytes)?;
        return Ok(Content::Single(Box::new(update)));
    }
    let Envelope { entries } = serde_json::from_slice(bytes)?;
    if entries.is_empty() {
        return Err(DecodeError::Empty);
    }
    Ok(Content::Entries(entries.into_iter().map(read_entry).collect()))
}

/// An entry that can't be read.
#[derive(Debug)]
pub struct UnreadableEntry {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What is wrong.
    pub error: DecodeError,
}

fn read_entry(raw: &RawValue) -> Result<Entry, UnreadableEntry> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(default)]
        reply: bool,
        traceparent: Option<String>,
        tracestate: Option<String>,
        #[serde(borrow)]
        message: &'a RawValue,
    }

    let fields: Fields<'_> = serde_json::from_str(raw.get()).map_err(|error| UnreadableEntry {
        bytes: raw.get().as_bytes().to_vec(),
        error: error.into(),
    })?;
    let Fields { reply: wants_reply, traceparent, tracestate, message } = fields;
    let trace = traceparent.map(|traceparent| TraceContext { traceparent, tracestate });
    Ok(Entry { message: message.get().as_bytes().to_vec(), wants_reply, trace })
}

#[cfg(test)]
mod tests;
