//! What the played queues deliver: messages of one update, and envelopes.

use model::delivery::Content;
use shared::{
    domain::{component::ComponentId, update_id::UpdateId},
    wire::envelope::{self, Entry},
};
use worker::batch::{Delivered, Incoming, UnpackedUpdate, Unusable};

use super::{
    PARTITIONS,
    worker::{Broken, unpack},
};

/// An update that was posted.
#[derive(Clone, Debug)]
pub(super) struct Posted {
    pub(super) id: UpdateId,
    pub(super) component: ComponentId,
    /// What its message is when it comes from its partition's queue.
    pub(super) content: Content,
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) updates: Vec<Posted>,
    body: Vec<u8>,
    /// The header of an envelope.
    ids: Option<String>,
    pub(super) given_up: bool,
    /// Those of its updates that the database refused again and again.
    pub(super) refused: Vec<UpdateId>,
    /// So many of its first updates are settled by a worker that can still acknowledge it.
    pub(super) settled: usize,
}

impl Delivery {
    /// A message as an update travels alone.
    pub(super) fn single(update: Posted, body: Vec<u8>) -> Self {
        Self {
            updates: vec![update],
            body,
            ids: None,
            given_up: false,
            refused: Vec::new(),
            settled: 0,
        }
    }

    /// An envelope of these updates with their messages, and what becomes of its bytes on the way.
    pub(super) fn envelope(
        updates: Vec<(Posted, Vec<u8>)>,
        distort: impl FnOnce(&mut Vec<u8>),
    ) -> Self {
        let (updates, messages): (Vec<Posted>, Vec<Vec<u8>>) = updates.into_iter().unzip();
        let entry = |message| Entry { message, wants_reply: true, trace: None };
        let entries: Vec<Entry> = messages.into_iter().map(entry).collect();
        let mut body = envelope::encode(&entries);
        distort(&mut body);
        let ids: Vec<String> = updates.iter().map(|update| update.id.to_string()).collect();
        let ids = Some(ids.join(","));
        Self { updates, body, ids, given_up: false, refused: Vec::new(), settled: 0 }
    }

    pub(super) fn partition(&self) -> Option<u16> {
        Some(self.updates.first()?.component.partition(PARTITIONS))
    }

    /// Its updates, as the worker unpacks them.
    pub(super) fn unpack(&self, fault: Option<Broken>) -> Vec<Incoming> {
        let message_id = self.updates.first().map(|update| update.id.to_string());
        let delivered = Delivered {
            body: self.body.clone(),
            message_id: message_id.as_deref(),
            ids: self.ids.as_deref(),
            given_up: self.given_up.then_some("played"),
        };
        let queue = format!("p{}", self.partition().unwrap_or_default()).into();
        let incoming = |unpacked: UnpackedUpdate| {
            let UnpackedUpdate { message_id, payload, content, .. } = unpacked;
            let queue = std::sync::Arc::clone(&queue);
            let mut incoming = Incoming { queue, message_id, payload, content, trace: None };
            if incoming.update_id().is_some_and(|id| self.refused.contains(&id)) {
                incoming.content = Err(Unusable::Refused("played".to_owned()));
            }
            incoming
        };
        unpack(delivered, fault).into_iter().map(incoming).collect()
    }
}

/// What a worker has in its hands: so many updates of these deliveries, without those that it settled.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) most: usize,
}

impl Batch {
    pub(super) const fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    pub(super) fn incoming(&self, fault: Option<Broken>) -> Vec<Incoming> {
        let left = |delivery: &Delivery| delivery.unpack(fault).into_iter().skip(delivery.settled);
        self.deliveries.iter().flat_map(left).take(self.most).collect()
    }
}
