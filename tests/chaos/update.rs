//! The updates that clients send, and what their answers must be.

use anyhow::{Context, Result, ensure};
use harness::Answer;
use serde_json::{Value, json};
use shared::domain::{condition::Condition, impact::Impact};
use tokio::time::Instant;

use crate::{
    random::Random,
    record::{Attempt, AttemptResult, RESPOND_ASYNC},
};

/// Updates that say `ok`, of a hundred.
const OK: usize = 30;
/// Updates that name a source, of a hundred.
const NAMED: usize = 40;
/// Who speaks beside those that name no source. They are few, so that components recover.
const SOURCES: [&str; 2] = ["prometheus", "probe"];

/// An update that a client is to send.
pub(crate) struct Update {
    pub(crate) text: String,
    pub(crate) component: usize,
    pub(crate) condition: Condition,
    pub(crate) source: Option<&'static str>,
    pub(crate) has_key: bool,
    pub(crate) prefer: Option<&'static str>,
}

/// How long a client is willing to wait.
pub(crate) fn prefer(random: &mut Random) -> Option<&'static str> {
    match random.below(100) {
        0..25 => Some(RESPOND_ASYNC),
        25..35 => Some("wait=5"),
        _ => None,
    }
}

impl Update {
    /// One of a monitor's own components, without its text and without a preference.
    pub(crate) fn draw(own: &[usize], random: &mut Random) -> Self {
        Self {
            text: String::new(),
            component: own.get(random.below(own.len())).copied().unwrap_or_default(),
            condition: match random.below(100) {
                _ if random.percent(OK) => Condition::Ok,
                0..10 => Impact::Outage.into(),
                10..35 => Impact::Major.into(),
                _ => Impact::Minor.into(),
            },
            source: random
                .percent(NAMED)
                .then(|| SOURCES.get(random.below(SOURCES.len())).copied())
                .flatten(),
            has_key: random.percent(50),
            prefer: None,
        }
    }

    /// Whether only messages with reports can have it.
    pub(crate) fn needs_reports(&self) -> bool {
        self.condition == Condition::Ok || self.source.is_some()
    }

    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "name": format!("Service {}", self.component / 2),
            "impact": self.condition,
            "text": self.text,
            "attributes": [{
                "name": "region",
                "value": if self.component.is_multiple_of(2) { "R1" } else { "R2" },
            }],
        });
        if let Some(source) = self.source {
            body["source"] = json!(source);
        }
        body
    }

    /// As one of many.
    pub(crate) fn body_of_many(&self) -> Value {
        let mut body = self.body();
        if self.has_key {
            body["idempotency_key"] = json!(self.text);
        }
        body
    }

    pub(crate) fn attempt(
        &self,
        gateway: usize,
        again: bool,
        (sent, answered): (Instant, Instant),
        result: AttemptResult,
    ) -> Attempt {
        Attempt {
            update: self.text.clone(),
            component: self.component as i32 + 1,
            condition: self.condition,
            source: self.source,
            alert: None,
            has_key: self.has_key,
            prefer: self.prefer,
            gateway,
            again,
            together: None,
            sent,
            answered,
            result,
        }
    }
}

/// Whether a receipt says what the answer said.
pub(crate) fn agrees(receipt: &Answer, changed: bool, incident: Option<i64>) -> bool {
    let changes = |outcome: &str| !matches!(outcome, "unchanged" | "suppressed");
    receipt.body["state"] == "done"
        && receipt.body["incident"]["id"].as_i64() == incident
        && receipt.body["outcome"].as_str().is_some_and(|outcome| changes(outcome) == changed)
}

/// The incident of an outcome: none where the answer is a receipt, since no incident covers a component that
/// is well.
pub(crate) fn covering(answer: &Answer, condition: Condition) -> Result<Option<i64>> {
    let body = &answer.body;
    if body["state"] == "done" {
        let is_right = answer.status == 200 && condition == Condition::Ok;
        ensure!(is_right && body["incident"].is_null(), "a receipt instead of an incident");
        return Ok(None);
    }
    let id = body["id"].as_i64().context("an incident without an id")?;
    if let Some(reported) = condition.impact() {
        // A running maintenance covers whatever is reported.
        let is_maintenance = |held| held == 0 && answer.status == 200;
        let covers = |held: i64| held >= i64::from(i16::from(reported)) || is_maintenance(held);
        ensure!(
            body["impact"].as_i64().is_some_and(covers),
            "the incident has a lower impact than the update"
        );
    }
    Ok(Some(id))
}
