//! What a message must lead to before any rule is asked: whether it must be parked, and why, and
//! what its idempotency key makes of it.

use std::{collections::BTreeMap, fmt};

use shared::{
    domain::{
        component::{Component, ComponentId},
        update_id::UpdateId,
    },
    wire::message::Idempotency,
};

/// A message as it is delivered.
#[derive(Clone, Debug)]
pub enum Content {
    /// An update that was made for this component, as the gateway's catalogue had it.
    Update(Component),
    /// Its bytes are not an update's.
    Unreadable,
    /// It has a version that the worker does not know.
    OtherVersion,
    /// It comes from the dead-letter queue.
    GivenUp,
    /// The database refused it again and again.
    Refused,
}

/// Why an update is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The catalogue has no component with its id.
    ComponentGone,
    /// The id means another component now.
    AnotherComponent,
    /// Its bytes are not an update's.
    Unreadable,
    /// It has a version that the worker does not know.
    OtherVersion,
    /// RabbitMQ gave it up, and it is not settled.
    GivenUp,
    /// The database refuses it, and it is not settled.
    Refused,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ComponentGone => "its component is gone",
            Self::AnotherComponent => "its component's id means another one",
            Self::Unreadable => "it can't be read",
            Self::OtherVersion => "it has another version",
            Self::GivenUp => "dead-lettered by RabbitMQ",
            Self::Refused => "the database refuses it",
        })
    }
}

impl Why {
    /// What the reason of a parked row says; none for words that are not the worker's.
    #[must_use]
    pub fn of_reason(reason: &str) -> Option<Self> {
        let is_of_component = reason.starts_with("component ");
        Some(match reason {
            _ if is_of_component && reason.ends_with(", is gone") => Self::ComponentGone,
            _ if is_of_component && reason.ends_with(", now names another one") => {
                Self::AnotherComponent
            }
            _ if reason.starts_with("the message has version ") => Self::OtherVersion,
            _ if reason.starts_with("the message is not of the form ") => Self::Unreadable,
            _ if reason.starts_with("a status update can't have impact 0") => Self::Unreadable,
            _ if reason.starts_with("dead-lettered by RabbitMQ: ") => Self::GivenUp,
            _ if reason.starts_with("the database refuses it: ") => Self::Refused,
            _ => return None,
        })
    }
}

/// Why a message must be parked; none when it must not be. An update that is settled or is parked
/// is ignored before this is asked, unless its bytes can't be read: then nobody knows whose id
/// it has.
#[must_use]
pub fn must_be_parked(
    catalogue: &BTreeMap<ComponentId, Component>,
    content: &Content,
) -> Option<Why> {
    let sent = match content {
        Content::Update(component) => component,
        Content::Unreadable => return Some(Why::Unreadable),
        Content::OtherVersion => return Some(Why::OtherVersion),
        Content::GivenUp => return Some(Why::GivenUp),
        Content::Refused => return Some(Why::Refused),
    };
    let Some(current) = catalogue.get(&sent.id) else { return Some(Why::ComponentGone) };
    if current.name != sent.name {
        return Some(Why::AnotherComponent);
    }
    for mine in &sent.attributes {
        for other in &current.attributes {
            if mine.name == other.name && mine.value != other.value {
                return Some(Why::AnotherComponent);
            }
        }
    }
    None
}

/// What an idempotency key makes of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// Nobody used it before, or there is none: the rules decide.
    First,
    /// It repeats that update.
    Repeats(UpdateId),
    /// That update used it for another body.
    Rejected(UpdateId),
}

/// The idempotency keys that were used: for which body, by whom if that is known, and by which update.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<String, (String, Option<String>, UpdateId)>);

impl Keys {
    /// An update is decided, or repeats another one.
    pub fn used(
        &mut self,
        update: UpdateId,
        idempotency: Option<&Idempotency>,
        source: Option<&str>,
    ) -> KeyUse {
        let Some(Idempotency { key, fingerprint }) = idempotency else { return KeyUse::First };
        match self.0.get(key) {
            None => {
                let source = source.map(str::to_owned);
                self.0.insert(key.clone(), (fingerprint.clone(), source, update));
                KeyUse::First
            }
            Some((first, by, original)) => {
                let other_source = matches!((by, source), (Some(by), Some(source)) if by != source);
                if first == fingerprint && !other_source {
                    KeyUse::Repeats(*original)
                } else {
                    KeyUse::Rejected(*original)
                }
            }
        }
    }
}
