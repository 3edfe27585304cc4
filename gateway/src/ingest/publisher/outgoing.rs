//! What a lane publishes: the properties and the body of a message.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use shared::{
    domain::update_id::UpdateId,
    telemetry::traces,
    wire::envelope::{self, Entry},
};

use super::{channels::REPLY_TO, ticket::Queued};

const PERSISTENT: u8 = 2;

/// The message of some updates, or of a marker; none without any.
pub(super) fn message(
    queued: &[Queued],
    mut entries: Vec<Entry>,
) -> Option<(UpdateId, BasicProperties, Vec<u8>)> {
    let first = queued.first()?;
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(first.id.to_string().into());
    if entries.iter().any(|entry| entry.wants_reply) {
        properties = properties.with_reply_to(REPLY_TO.into());
    }
    let (properties, body) = match entries.as_mut_slice() {
        [alone] => {
            if let Some(trace) = alone.trace.take() {
                properties = properties.with_headers(traces::headers(trace));
            }
            (properties.with_type(first.kind().into()), std::mem::take(&mut alone.message))
        }
        several => {
            let properties = properties.with_type("status-updates".into());
            (properties.with_headers(ids_header(queued)), envelope::encode(several.iter()))
        }
    };
    Some((first.id, properties, body))
}

/// The header with the ids of an envelope's updates.
fn ids_header(queued: &[Queued]) -> FieldTable {
    let ids: Vec<String> = queued.iter().map(|queued| queued.id.to_string()).collect();
    let mut headers = FieldTable::default();
    headers.insert(envelope::IDS_HEADER.into(), AMQPValue::LongString(ids.join(",").into()));
    headers
}
