//! The requests of the clients and their answers.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use harness::verdict::{self, Answered, InboxRow};
use serde_json::json;
use shared::{
    domain::{
        component::ComponentId, condition::Condition, timestamp::Timestamp, update_id::UpdateId,
    },
    wire::message::Report,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{alert::Seen, diary::Diary};

/// Asks for no outcome.
pub(crate) const RESPOND_ASYNC: &str = "respond-async";

/// One request, and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// Names the update: its text, which the inbox keeps. Updates that are sent again with their
    /// idempotency key keep it; without a key it is another update.
    pub(crate) update: String,
    /// The component's id.
    pub(crate) component: i32,
    pub(crate) condition: Condition,
    /// The source that it names, or its token.
    pub(crate) source: Option<&'static str>,
    /// The alert that it is.
    pub(crate) alert: Option<Seen>,
    pub(crate) has_key: bool,
    /// The `Prefer` header.
    pub(crate) prefer: Option<&'static str>,
    pub(crate) gateway: usize,
    /// Whether it is sent because the one before had no good answer.
    pub(crate) again: bool,
    /// The first update of its request, where it was sent with others.
    pub(crate) together: Option<String>,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    pub(crate) result: AttemptResult,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum AttemptResult {
    /// 200 or 201; without an incident if none covers a component that is well.
    Outcome { changed: bool, id: Uuid, incident: Option<i64> },
    /// 202.
    Accepted(Uuid),
    /// 200 to an alert: it is queued.
    Queued,
    /// 503: nothing was queued.
    Refused(Option<Uuid>, String),
    /// 503: it may have been queued or not.
    Unknown(Option<Uuid>, String),
    /// Nothing was queued, since messages can't have reports now, or the gateway does not know them.
    NoReports,
    /// No answer.
    Nothing(String),
    /// An answer that no client should get.
    Wrong(String),
}

impl Attempt {
    fn report(&self) -> Report {
        let source = self.source.unwrap_or_default().to_owned();
        let Some(alert) = &self.alert else { return Report { source, ..Report::default() } };
        let (starts_at, ends_at) = (Some(alert.starts_at), alert.ends_at);
        Report { source, key: alert.fingerprint(), ttl: None, starts_at, ends_at }
    }
}

impl AttemptResult {
    /// A refusal that can be tried again, by what it says.
    pub(crate) fn of_503(id: Option<Uuid>, message: String) -> Result<Self> {
        if message.contains("need version") && message.ends_with("nothing was queued") {
            return Ok(Self::NoReports);
        }
        if message.contains("nothing was queued") {
            return Ok(Self::Refused(id, message));
        }
        ensure!(message.contains("may have been queued or not"), "503 that says: {message}");
        Ok(Self::Unknown(id, message))
    }

    /// A refusal of alerts, of which some may be queued.
    pub(crate) fn of_503_to_alerts(message: String) -> Self {
        if message.contains("need version") {
            return Self::NoReports;
        }
        Self::Unknown(None, message)
    }

    /// Whether it is a 2xx.
    pub(crate) const fn is_taken(&self) -> bool {
        matches!(self, Self::Queued) || self.taken().is_some()
    }

    /// The update's id of a 2xx that has it.
    pub(crate) const fn taken(&self) -> Option<Uuid> {
        match self {
            Self::Outcome { id, .. } | Self::Accepted(id) => Some(*id),
            Self::Queued
            | Self::Refused(..)
            | Self::Unknown(..)
            | Self::NoReports
            | Self::Nothing(_)
            | Self::Wrong(_) => None,
        }
    }

    /// Whether there is no use in another attempt.
    pub(crate) const fn is_final(&self) -> bool {
        self.is_taken() || matches!(self, Self::NoReports)
    }
}

/// All of them.
pub(crate) struct Record(Mutex<Kept>);

struct Kept {
    attempts: Vec<Attempt>,
    /// Updates that were answered 202 and not seen in the inbox yet, and when they were answered.
    unsettled: Vec<(Instant, Uuid)>,
    /// By gateway: when the newest request was sent that was answered with an outcome.
    outcomes: Vec<Option<Instant>>,
    /// The newest request that was answered worse than it would be on a good day: when it was sent,
    /// and when answered.
    worse: Option<(Instant, Instant)>,
    /// What readers and clients saw that must not be.
    wrong: Vec<String>,
    /// Lists that were read and found whole.
    reads: usize,
}

impl Record {
    pub(crate) fn new(gateways: usize) -> Self {
        Self(Mutex::new(Kept {
            attempts: Vec::new(),
            unsettled: Vec::new(),
            outcomes: vec![None; gateways],
            worse: None,
            wrong: Vec::new(),
            reads: 0,
        }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, attempt: Attempt) {
        let mut kept = self.kept();
        match &attempt.result {
            AttemptResult::Outcome { .. } => {
                if let Some(newest) = kept.outcomes.get_mut(attempt.gateway) {
                    *newest = (*newest).max(Some(attempt.sent));
                }
            }
            AttemptResult::Accepted(id) => kept.unsettled.push((attempt.answered, *id)),
            AttemptResult::Queued
            | AttemptResult::Refused(..)
            | AttemptResult::Unknown(..)
            | AttemptResult::NoReports
            | AttemptResult::Nothing(_)
            | AttemptResult::Wrong(_) => {}
        }
        let is_asked_for = attempt.prefer == Some(RESPOND_ASYNC);
        let is_good = match &attempt.result {
            AttemptResult::Outcome { .. } | AttemptResult::Queued | AttemptResult::NoReports => {
                true
            }
            AttemptResult::Accepted(_) => is_asked_for,
            AttemptResult::Refused(..)
            | AttemptResult::Unknown(..)
            | AttemptResult::Nothing(_)
            | AttemptResult::Wrong(_) => false,
        };
        if !is_good && kept.worse.is_none_or(|(sent, _)| sent < attempt.sent) {
            kept.worse = Some((attempt.sent, attempt.answered));
        }
        kept.attempts.push(attempt);
    }

    pub(crate) fn wrong(&self, what: String) {
        self.kept().wrong.push(what);
    }

    pub(crate) fn read(&self) {
        self.kept().reads += 1;
    }

    /// Whether every gateway has answered an update with an outcome that was sent after this.
    pub(crate) fn all_decide_since(&self, since: Instant) -> bool {
        self.kept().outcomes.iter().all(|newest| newest.is_some_and(|newest| newest >= since))
    }

    /// When the newest request was answered, of those sent after this, that had no outcome though it
    /// waited for one.
    pub(crate) fn worse_since(&self, since: Instant) -> Option<Instant> {
        let worse = self.kept().worse.filter(|(sent, _)| *sent >= since);
        worse.map(|(_, answered)| answered)
    }

    /// The updates of which no outcome was seen, answered before this.
    pub(crate) fn unsettled_before(&self, before: Instant) -> Vec<Uuid> {
        let kept = self.kept();
        kept.unsettled.iter().filter(|(at, _)| *at < before).map(|(_, id)| *id).collect()
    }

    /// Notes that these are settled.
    pub(crate) fn settled(&self, ids: &[Uuid]) {
        let ids: std::collections::HashSet<&Uuid> = ids.iter().collect();
        self.kept().unsettled.retain(|(_, id)| !ids.contains(id));
    }

    /// All attempts, in the order of their answers; what was wrong; and how many lists were read.
    pub(crate) fn all(&self) -> (Vec<Attempt>, Vec<String>, usize) {
        let kept = self.kept();
        (kept.attempts.clone(), kept.wrong.clone(), kept.reads)
    }
}

/// Writes the attempts as JSON lines.
pub(crate) fn write(attempts: &[Attempt], diary: &Diary, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for attempt in attempts {
        let (result, id, more) = match &attempt.result {
            AttemptResult::Outcome { changed, id, incident } => {
                let status = if *changed { "201" } else { "200" };
                (status, Some(*id), incident.map(|id| id.to_string()).unwrap_or_default())
            }
            AttemptResult::Accepted(id) => ("202", Some(*id), String::new()),
            AttemptResult::Queued => ("200, queued", None, String::new()),
            AttemptResult::Refused(id, message) => ("503, not queued", *id, message.clone()),
            AttemptResult::Unknown(id, message) => ("503, unknown", *id, message.clone()),
            AttemptResult::NoReports => ("no reports", None, String::new()),
            AttemptResult::Nothing(error) => ("no answer", None, error.clone()),
            AttemptResult::Wrong(what) => ("wrong", None, what.clone()),
        };
        let line = json!({
            "update": attempt.update,
            "component": attempt.component,
            "impact": attempt.condition,
            "source": attempt.source,
            "alert": attempt.alert.as_ref().map(Seen::fingerprint),
            "starts": attempt.alert.as_ref().map(|alert| alert.starts_at.to_the_microsecond()),
            "ends": attempt.alert.as_ref().and_then(|alert| alert.ends_at).map(Timestamp::to_the_microsecond),
            "key": attempt.has_key,
            "prefer": attempt.prefer,
            "gateway": attempt.gateway + 1,
            "again": attempt.again,
            "together": attempt.together,
            "sent": diary.seconds(attempt.sent),
            "answered": diary.seconds(attempt.answered),
            "answer": result,
            "id": id,
            "more": more,
        });
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}

/// The attempts as the verdict takes them.
pub(crate) fn as_sent(attempts: &[Attempt]) -> Result<Vec<verdict::Attempt>> {
    let begin = attempts.iter().map(|attempt| attempt.sent).min().context("nothing was sent")?;
    let micros = |at: Instant| u64::try_from(at.duration_since(begin).as_micros());
    let as_sent = |attempt: &Attempt| -> Result<verdict::Attempt> {
        Ok(verdict::Attempt {
            update: attempt.update.clone(),
            component: ComponentId(attempt.component),
            condition: Some(attempt.condition),
            report: Some(attempt.report()),
            is_alert: attempt.alert.is_some(),
            sent: micros(attempt.sent)?,
            answered: micros(attempt.answered)?,
            answer: match &attempt.result {
                AttemptResult::Outcome { changed, id, incident } => {
                    Answered::Outcome { id: UpdateId(*id), changed: *changed, incident: *incident }
                }
                AttemptResult::Accepted(id) => Answered::Accepted(UpdateId(*id)),
                AttemptResult::Queued => Answered::Queued,
                AttemptResult::Refused(id, message) => {
                    Answered::Refused(id.map(UpdateId), message.clone())
                }
                AttemptResult::Unknown(id, _) => Answered::Unknown(id.map(UpdateId)),
                AttemptResult::NoReports => Answered::Refused(None, String::new()),
                AttemptResult::Nothing(_) | AttemptResult::Wrong(_) => Answered::Unknown(None),
            },
        })
    };
    attempts.iter().map(as_sent).collect()
}

/// Writes the inbox as JSON lines.
pub(crate) fn write_inbox(rows: &[InboxRow], path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for row in rows {
        let line = json!({
            "position": row.position,
            "update": row.text,
            "id": row.id,
            "component": row.component_id,
            "impact": row.impact,
            "source": row.source,
            "decided_at": row.decided_at.to_the_microsecond(),
            "outcome": row.outcome,
            "reason": row.reason,
            "incident": row.incident_id,
            "original": row.original,
        });
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}
