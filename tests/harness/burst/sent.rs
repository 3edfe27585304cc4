//! What was sent in a burst, and the answers.

use anyhow::Result;
use shared::{component::ComponentId, update_id::UpdateId};
use tokio::time::Instant;
use uuid::Uuid;

use super::{component, update};
use crate::{
    Answer,
    verdict::{Answered, Attempt},
};

/// The answer that a client got for an update.
#[derive(Clone, Debug)]
pub enum Told {
    /// 200 or 201: its outcome.
    Decided(Uuid),
    /// 202: it is safe.
    Accepted(Uuid),
    /// 503: it may have been queued or not.
    Unknown(Uuid, String),
    /// 503: nothing was queued.
    Refused(Option<Uuid>, String),
}

/// An update as it was sent once, and its answer.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its place in the burst. An update with an idempotency key is sent until it is taken.
    pub number: usize,
    /// The gateway that answered.
    pub gateway: usize,
    /// Whether the client waited for the outcome.
    pub waited: bool,
    /// When it was sent.
    pub at: Instant,
    /// When its answer was there.
    pub answered: Instant,
    /// The answer.
    pub told: Told,
    /// Whether it was a 201, and the incident that it showed.
    pub outcome: Option<(bool, i64)>,
}

/// Whether an answer with an outcome is a 201, and which incident it shows.
#[must_use]
pub fn outcome(answer: &Answer) -> Option<(bool, i64)> {
    let is_outcome = matches!(answer.status, 200 | 201);
    Some((answer.status == 201, answer.body["id"].as_i64().filter(|_| is_outcome)?))
}

impl Sent {
    /// Whether it was taken: its answer is 2xx.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self.told, Told::Decided(_) | Told::Accepted(_))
    }

    /// The component that it is about.
    #[must_use]
    pub fn component(&self) -> ComponentId {
        ComponentId(component(self.number))
    }

    pub(super) fn attempt(&self, begin: Instant) -> Result<Attempt> {
        let micros = |at: Instant| u64::try_from(at.duration_since(begin).as_micros());
        let answer = match &self.told {
            Told::Decided(id) => Answered::Outcome {
                id: UpdateId(*id),
                changed: self.outcome.map(|(changed, _)| changed),
                incident: self.outcome.map(|(_, incident)| incident),
            },
            Told::Accepted(id) => Answered::Accepted(UpdateId(*id)),
            Told::Unknown(id, _) => Answered::Unknown(Some(UpdateId(*id))),
            Told::Refused(id, message) => Answered::Refused(id.map(UpdateId), message.clone()),
        };
        Ok(Attempt {
            update: format!("update {}", self.number),
            component: self.component(),
            impact: i16::try_from(update(self.number)["impact"].as_i64().unwrap_or_default()).ok(),
            sent: micros(self.at)?,
            answered: micros(self.answered)?,
            answer,
        })
    }
}
