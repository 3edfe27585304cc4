//! The updates of a delivery: one, or those of an envelope, each treated as if it was sent alone. Pure.

use shared::wire::{
    envelope::{self, Content, Entry, TraceContext, UnreadableEntry},
    message::{DecodeError, UpdateMessage},
};

use super::message::Unusable;

/// One update of a delivery.
#[derive(Debug)]
pub struct UnpackedUpdate {
    /// The id that its publisher gave it.
    pub message_id: Option<String>,
    /// Its message, as it would be sent alone.
    pub payload: Vec<u8>,
    /// Its decoded content.
    pub content: Result<UpdateMessage, Unusable>,
    /// Whether its gateway waits for the outcome.
    pub wants_reply: bool,
    /// The trace that its entry in the envelope names.
    pub trace: Option<TraceContext>,
}

/// A message as it was delivered.
#[derive(Debug)]
pub struct Delivered<'a> {
    /// Its bytes.
    pub body: Vec<u8>,
    /// The id in its properties.
    pub message_id: Option<&'a str>,
    /// Its header [`envelope::IDS_HEADER`].
    pub ids: Option<&'a str>,
    /// Why RabbitMQ dead-lettered it, if it did.
    pub given_up: Option<&'a str>,
}

impl Delivered<'_> {
    /// Its updates, in order; at least one.
    #[must_use]
    pub fn unpack(self) -> Vec<UnpackedUpdate> {
        let ids: Vec<&str> = self.ids.map(|ids| ids.split(',').collect()).unwrap_or_default();
        match envelope::decode(&self.body) {
            Ok(Content::Entries(entries)) => {
                let ids = if ids.len() == entries.len() { ids } else { vec![""; entries.len()] };
                entries.into_iter().zip(ids).map(|(entry, id)| self.entry(entry, id)).collect()
            }
            Ok(Content::Single(update)) => vec![self.alone(Ok(*update))],
            // Each of its updates has a client that may request its receipt.
            Err(error) if ids.len() > 1 => {
                ids.into_iter().map(|id| self.unreadable(id, error.clone())).collect()
            }
            Err(error) => vec![self.alone(Err(error))],
        }
    }

    fn alone(self, content: Result<UpdateMessage, DecodeError>) -> UnpackedUpdate {
        UnpackedUpdate {
            message_id: self.message_id.map(str::to_owned),
            content: self.content(content),
            payload: self.body,
            wants_reply: true,
            trace: None,
        }
    }

    fn entry(&self, entry: Result<Entry, UnreadableEntry>, id: &str) -> UnpackedUpdate {
        let (payload, content, wants_reply, trace) = match entry {
            Ok(Entry { message, wants_reply, trace }) => {
                let content = UpdateMessage::decode(&message);
                (message, content, wants_reply, trace)
            }
            Err(UnreadableEntry { bytes, error }) => (bytes, Err(error), true, None),
        };
        let message_id = match (&content, id) {
            (Ok(update), _) => Some(update.id.to_string()),
            (Err(_), "") => None,
            (Err(_), id) => Some(id.to_owned()),
        };
        UnpackedUpdate { message_id, payload, content: self.content(content), wants_reply, trace }
    }

    /// One update of an unreadable envelope.
    fn unreadable(&self, id: &str, error: DecodeError) -> UnpackedUpdate {
        UnpackedUpdate {
            message_id: Some(id.to_owned()),
            payload: self.body.clone(),
            content: self.content(Err(error)),
            wants_reply: true,
            trace: None,
        }
    }

    fn content(
        &self,
        content: Result<UpdateMessage, DecodeError>,
    ) -> Result<UpdateMessage, Unusable> {
        match self.given_up {
            Some(why) => Err(Unusable::GivenUp(why.to_owned())),
            None => content.map_err(Unusable::Unreadable),
        }
    }
}

#[cfg(test)]
mod tests;
