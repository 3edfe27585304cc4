//! What was sent in a burst, and the answers.

use anyhow::Result;
use shared::domain::{component::ComponentId, update_id::UpdateId};
use tokio::time::Instant;

use super::{component, update};
use crate::{
    Answer,
    verdict::{Answered, Attempt},
};

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
    pub answer: Answered,
}

/// The outcome of a 200 or 201.
///
/// # Errors
/// When the answer does not name the update.
pub fn outcome(answer: &Answer) -> Result<Answered> {
    Ok(Answered::Outcome {
        id: UpdateId(answer.header("update-id").parse()?),
        changed: answer.status == 201,
        incident: answer.body["id"].as_i64(),
    })
}

impl Sent {
    /// Whether it was taken: its answer is 2xx.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self.answer, Answered::Outcome { .. } | Answered::Accepted(_))
    }

    /// The component that it is about.
    #[must_use]
    pub fn component(&self) -> ComponentId {
        ComponentId(component(self.number))
    }

    pub(super) fn attempt(&self, begin: Instant) -> Result<Attempt> {
        let micros = |at: Instant| u64::try_from(at.duration_since(begin).as_micros());
        Ok(Attempt {
            update: format!("update {}", self.number),
            component: self.component(),
            condition: serde_json::from_value(update(self.number)["impact"].clone()).ok(),
            report: None,
            is_alert: false,
            sent: micros(self.at)?,
            answered: micros(self.answered)?,
            answer: self.answer.clone(),
        })
    }
}
