//! The simulated queues: messages that are posted, redelivered, requeued and acknowledged.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use model::delivery::Content;
use shared::{
    domain::{
        component::ComponentId, condition::Condition, timestamp::Timestamp, update_id::UpdateId,
    },
    wire::message::{Idempotency, Report, UpdateMessage},
};
use uuid::Uuid;
use worker::batch::MessageResult;

use super::{
    Broken, PARTITIONS, Rig,
    delivery::{Batch, Delivery, Posted},
};
use crate::{
    simulation::history::{Flaw, Pick, Update},
    verdict::{self, Answered, Attempt},
};

/// How a message comes again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Again {
    FromQueue,
    GivenUp,
    /// The database refuses one of its updates.
    Refused,
}

/// An update and its message, which may be flawed.
struct Made {
    posted: Posted,
    message: Vec<u8>,
    idempotency: Option<Idempotency>,
    condition: Condition,
    report: Option<Report>,
    flaw: Option<Flaw>,
}

impl Rig {
    /// Queues an update alone.
    pub(super) fn post(&mut self, update: &Update) {
        let Some(mut made) = self.make(update) else { return };
        if matches!(made.flaw, Some(Flaw::Unreadable)) {
            made.message.truncate(made.message.len() / 2);
        }
        let mut delivery = Delivery::single(made.posted.clone(), made.message.clone());
        delivery.given_up = matches!(made.flaw, Some(Flaw::GivenUp));
        if matches!(made.flaw, Some(Flaw::Refused)) {
            delivery.refused.push(made.posted.id);
        }
        self.sent(vec![made], delivery);
    }

    /// Queues several updates: those of a partition in one envelope. One that RabbitMQ gives up takes its
    /// envelope with it.
    pub(super) fn post_many(&mut self, updates: &[Update], flaw: Option<Flaw>) {
        let mut envelopes: BTreeMap<u16, Vec<Made>> = BTreeMap::new();
        for update in updates {
            let Some(mut made) = self.make(update) else { continue };
            if matches!(made.flaw, Some(Flaw::Unreadable)) {
                // The others stay readable.
                replace(&mut made.message, "\"impact\":", "\"import\":");
            }
            let content = match flaw {
                Some(Flaw::Unreadable) => Some(Content::Unreadable),
                Some(Flaw::Version) => Some(Content::OtherVersion),
                None | Some(Flaw::GivenUp | Flaw::Refused) => None,
            };
            if let Some(content) = content {
                made.posted.content = content;
                made.idempotency = None;
            }
            let partition = made.posted.component.partition(PARTITIONS);
            envelopes.entry(partition).or_default().push(made);
        }
        for made in envelopes.into_values() {
            let entries = made.iter().map(|made| (made.posted.clone(), made.message.clone()));
            let mut delivery = Delivery::envelope(entries.collect(), |body| match flaw {
                Some(Flaw::Unreadable) => body.truncate(body.len() / 2),
                Some(Flaw::Version) => replace(body, "\"v\":2", "\"v\":7"),
                None | Some(Flaw::GivenUp | Flaw::Refused) => {}
            });
            let given_up = made.iter().any(|made| matches!(made.flaw, Some(Flaw::GivenUp)));
            delivery.given_up = given_up || matches!(flaw, Some(Flaw::GivenUp));
            // What is given up is not tried.
            let is_refused = |made: &Made| {
                matches!(flaw, Some(Flaw::Refused)) || matches!(made.flaw, Some(Flaw::Refused))
            };
            let refused = made.iter().filter(|made| !delivery.given_up && is_refused(made));
            delivery.refused = refused.map(|made| made.posted.id).collect();
            if made.len() > 1 {
                self.played.together += made.len();
            }
            self.sent(made, delivery);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the rig makes ids as gateways do")]
    fn make(&self, update: &Update) -> Option<Made> {
        let Update { component, condition, report, title, key, flaw } = update;
        let component = ComponentId(*component);
        // A gateway queues nothing for a component that it does not know.
        let known = self.catalogue.get(&component)?;
        let update = UpdateMessage {
            id: UpdateId(Uuid::now_v7()),
            component: known.clone(),
            condition: *condition,
            text: (*title).to_owned(),
            received_at: epoch(),
            idempotency: key.map(|key| Idempotency {
                key: key.to_string(),
                fingerprint: format!("{component} {condition} {title} {report:?}"),
            }),
            report: report.clone(),
        };
        let mut message = update.encode();
        let content = match flaw {
            None | Some(Flaw::GivenUp | Flaw::Refused) => Content::Update(known.clone()),
            Some(Flaw::Unreadable) => Content::Unreadable,
            Some(Flaw::Version) => {
                let version = format!("\"v\":{}", update.version());
                replace(&mut message, &version, "\"v\":7");
                Content::OtherVersion
            }
        };
        // Nobody knows the key of a message that can't be read.
        let idempotency = update.idempotency.filter(|_| matches!(content, Content::Update(_)));
        let posted = Posted { id: update.id, component, content };
        Some(Made {
            posted,
            message,
            idempotency,
            condition: *condition,
            report: report.clone(),
            flaw: *flaw,
        })
    }

    /// Queues a message for the first time.
    fn sent(&mut self, made: Vec<Made>, delivery: Delivery) {
        for Made { posted, idempotency, condition, report, .. } in made {
            let number = self.attempts.len() as u64;
            self.attempts.push(Attempt {
                update: format!("update {number}"),
                component: posted.component,
                condition: Some(condition),
                report,
                is_alert: false,
                sent: 2 * number,
                answered: 2 * number + 1,
                answer: Answered::Accepted(posted.id),
            });
            let message = verdict::Message { delivered_as: Vec::new(), idempotency };
            self.messages.insert(posted.id, message);
            self.posted.insert(posted.id, posted);
        }
        self.deliveries.push(delivery.clone());
        self.deliver(delivery);
    }

    fn deliver(&mut self, delivery: Delivery) {
        for update in &delivery.updates {
            let Some(known) = self.messages.get_mut(&update.id) else { continue };
            known.delivered_as.push(if delivery.given_up {
                Content::GivenUp
            } else if delivery.refused.contains(&update.id) {
                Content::Refused
            } else {
                update.content.clone()
            });
        }
        let partition = delivery.partition().map(usize::from);
        if let Some(queue) = partition.and_then(|partition| self.queues.get_mut(partition)) {
            queue.push_back(delivery);
        }
    }

    /// Queues a message that was posted once more, as a whole.
    pub(super) fn redeliver(&mut self, index: Pick, again: Again) {
        if self.deliveries.is_empty() {
            return;
        }
        let place = index.of(self.deliveries.len());
        let Some(mut delivery) = self.deliveries.get(place).cloned() else { return };
        delivery.given_up = matches!(again, Again::GivenUp);
        let refused = delivery.updates.get(index.of(delivery.updates.len()));
        let refused = refused.filter(|_| matches!(again, Again::Refused));
        delivery.refused = refused.iter().map(|update| update.id).collect();
        self.played.broken += 1;
        self.deliver(delivery);
    }

    /// The first updates of the queues of the worker at this place.
    pub(super) fn batch(&self, place: usize, most: usize) -> Batch {
        let own = self.queues.iter().skip(place).step_by(self.live_workers.len().max(1));
        Batch { deliveries: own.flatten().cloned().collect(), most }
    }

    /// Takes the messages off the queues whose updates are all settled. Acknowledgements of a partition
    /// stop before an update that waits; it heads the next batch.
    pub(super) fn acknowledge(&mut self, place: usize, applied: &[MessageResult]) {
        let living = self.live_workers.len().max(1);
        let mut applied = applied.iter();
        for queue in self.queues.iter_mut().skip(place).step_by(living) {
            let mut waits = false;
            let mut done = 0;
            for delivery in queue.iter_mut() {
                let updates = delivery.unpack(self.fault).len();
                for one in applied.by_ref().take(updates - delivery.settled) {
                    waits |= matches!(one, MessageResult::Deferred(_));
                    delivery.settled += usize::from(!waits);
                }
                let is_early = self.fault == Some(Broken::AcknowledgesEarly);
                let needed = if is_early { 1 } else { updates };
                done += usize::from(delivery.settled >= needed);
            }
            queue.drain(..done);
            self.played.cut += usize::from(queue.front().is_some_and(|next| next.settled > 0));
        }
    }

    /// The sessions of all workers end: what is not acknowledged comes again, as a whole.
    pub(super) fn all_comes_again(&mut self) {
        for delivery in self.queues.iter_mut().flatten() {
            self.played.settled_again += std::mem::take(&mut delivery.settled);
        }
    }

    /// Each update alone, as it was parked.
    pub(super) async fn put_back(&mut self) -> Result<()> {
        let parked: Vec<(Option<UpdateId>, Vec<u8>)> = sqlx::query_as(
            "UPDATE sdb_parked SET put_back_at = clock_timestamp() AT TIME ZONE 'UTC'
            WHERE put_back_at IS NULL RETURNING update_id, payload",
        )
        .fetch_all(&mut self.database)
        .await?;
        for (id, payload) in parked {
            let id = id.context("a parked message without an id")?;
            let posted = self.posted.get(&id).context("a parked message that nobody sent")?;
            self.deliver(Delivery::single(posted.clone(), payload));
        }
        Ok(())
    }
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    *bytes = String::from_utf8_lossy(bytes).replacen(from, to, 1).into_bytes();
}

#[expect(clippy::expect_used, reason = "1970 is in range")]
fn epoch() -> Timestamp {
    Timestamp::from_micros(0).expect("in range")
}
