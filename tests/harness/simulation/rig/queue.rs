//! The simulated queues: messages that are posted, redelivered, requeued and acknowledged.

use anyhow::{Context, Result};
use model::delivery::Content;
use shared::{
    component::ComponentId,
    impact::Impact,
    message::{Idempotency, UpdateMessage},
    timestamp::Timestamp,
    update_id::UpdateId,
};
use uuid::Uuid;
use worker::batch::{Applied, Incoming, Unusable};

use super::{PARTITIONS, Rig};
use crate::{
    simulation::history::{Flaw, Pick},
    verdict::{self, Answered, Attempt},
};

/// A message in a queue.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: UpdateId,
    component: ComponentId,
    payload: Vec<u8>,
    delivered: Delivered,
}

/// How a message comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Delivered {
    FromQueue,
    GivenUp,
    Refused,
}

impl Message {
    pub(super) fn incoming(&self) -> Incoming {
        let content = match self.delivered {
            Delivered::FromQueue => {
                UpdateMessage::decode(&self.payload).map_err(Unusable::Unreadable)
            }
            Delivered::GivenUp => Err(Unusable::GivenUp("played".to_owned())),
            Delivered::Refused => Err(Unusable::Refused("played".to_owned())),
        };
        Incoming {
            queue: format!("p{}", self.component.partition(PARTITIONS)).into(),
            message_id: Some(self.id.to_string()),
            payload: self.payload.clone(),
            content,
            trace: None,
        }
    }
}

impl Rig {
    #[expect(clippy::disallowed_methods, reason = "the rig makes ids as gateways do")]
    pub(super) fn post(
        &mut self,
        component: ComponentId,
        impact: Impact,
        title: &str,
        key: Option<u8>,
        flaw: Option<Flaw>,
    ) {
        // A gateway queues nothing for a component that it does not know.
        let Some(known) = self.catalogue.get(&component) else { return };
        let id = UpdateId(Uuid::now_v7());
        let update = UpdateMessage {
            id,
            component: known.clone(),
            impact,
            text: title.to_owned(),
            received_at: epoch(),
            idempotency: key.map(|key| Idempotency {
                key: key.to_string(),
                fingerprint: format!("{component} {impact} {title}"),
            }),
        };
        let mut payload = update.encode();
        match flaw {
            None | Some(Flaw::GivenUp | Flaw::Refused) => {}
            Some(Flaw::Unreadable) => payload.truncate(payload.len() / 2),
            Some(Flaw::Version) => {
                let text = String::from_utf8_lossy(&payload).replacen("\"v\":1", "\"v\":7", 1);
                payload = text.into_bytes();
            }
        }
        let content = match flaw {
            None => Content::Update(known.clone()),
            Some(Flaw::Unreadable) => Content::Unreadable,
            Some(Flaw::Version) => Content::OtherVersion,
            Some(Flaw::GivenUp) => Content::GivenUp,
            Some(Flaw::Refused) => Content::Refused,
        };
        let delivered = match flaw {
            Some(Flaw::GivenUp) => Delivered::GivenUp,
            Some(Flaw::Refused) => Delivered::Refused,
            None | Some(Flaw::Unreadable | Flaw::Version) => Delivered::FromQueue,
        };
        // Nobody knows the key of a message that can't be read.
        let is_readable = matches!(flaw, None | Some(Flaw::GivenUp | Flaw::Refused));
        let idempotency = update.idempotency.filter(|_| is_readable);
        let message = verdict::Message { delivered_as: vec![content], idempotency };
        self.messages.insert(id, message);
        let number = self.ids.len() as u64;
        self.attempts.push(Attempt {
            update: format!("update {number}"),
            component,
            impact: Some(i16::from(impact)),
            sent: 2 * number,
            answered: 2 * number + 1,
            answer: Answered::Accepted(id),
        });
        let message = Message { id, component, payload, delivered: Delivered::FromQueue };
        self.queue(Message { delivered, ..message.clone() });
        self.ids.push(id);
        self.posted.insert(id, message);
    }

    /// Queues a message that was posted once more.
    pub(super) fn deliver(&mut self, message: Message, delivered: Delivered) {
        if let Some(known) = self.messages.get_mut(&message.id) {
            match (delivered, UpdateMessage::decode(&message.payload)) {
                (Delivered::GivenUp, _) => known.delivered_as.push(Content::GivenUp),
                (Delivered::Refused, _) => known.delivered_as.push(Content::Refused),
                // The first time it was not tried.
                (Delivered::FromQueue, Ok(update))
                    if matches!(
                        known.delivered_as.first(),
                        Some(Content::GivenUp | Content::Refused)
                    ) =>
                {
                    known.delivered_as.push(Content::Update(update.component));
                }
                (Delivered::FromQueue, _) => {}
            }
        }
        self.queue(Message { delivered, ..message });
    }

    pub(super) fn redeliver(&mut self, index: Pick, delivered: Delivered) {
        if self.ids.is_empty() {
            return;
        }
        let Some(id) = self.ids.get(index.of(self.ids.len())) else { return };
        let Some(message) = self.posted.get(id).cloned() else { return };
        self.broken += 1;
        self.deliver(message, delivered);
    }

    pub(super) fn queue(&mut self, message: Message) {
        let partition = usize::from(message.component.partition(PARTITIONS));
        if let Some(queue) = self.queues.get_mut(partition) {
            queue.push_back(message);
        }
    }

    /// The first messages of the queues of the worker at this place.
    pub(super) fn batch(&self, place: usize, most: usize) -> Vec<Message> {
        let own = self.queues.iter().skip(place).step_by(self.living.len().max(1));
        own.flatten().take(most).cloned().collect()
    }

    /// Takes the settled messages of a batch off the queues. Acknowledgements of a partition stop before
    /// a message that waits; it heads the next batch.
    pub(super) fn acknowledge(&mut self, place: usize, applied: &[Applied]) {
        let living = self.living.len().max(1);
        let mut applied = applied;
        for queue in self.queues.iter_mut().skip(place).step_by(living) {
            let (own, others) = applied.split_at(applied.len().min(queue.len()));
            applied = others;
            let settled = own.iter().take_while(|one| matches!(one, Applied::Settled(_)));
            queue.drain(..settled.count());
        }
    }

    pub(super) async fn put_back(&mut self) -> Result<()> {
        let parked: Vec<Option<UpdateId>> = sqlx::query_scalar(
            "UPDATE sdb_parked SET put_back_at = clock_timestamp() AT TIME ZONE 'UTC'
            WHERE put_back_at IS NULL RETURNING update_id",
        )
        .fetch_all(&mut self.database)
        .await?;
        for id in parked {
            let id = id.context("a parked message without an id")?;
            let message = self.posted.get(&id).context("a parked message that nobody sent")?;
            self.deliver(message.clone(), Delivered::FromQueue);
        }
        Ok(())
    }
}

#[expect(clippy::expect_used, reason = "1970 is in range")]
fn epoch() -> Timestamp {
    Timestamp::from_micros(0).expect("in range")
}
