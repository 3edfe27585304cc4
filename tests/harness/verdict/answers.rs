//! What clients and gateways were answered, and what became of their updates.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use model::Answer;
use shared::{
    domain::{
        component::ComponentId, incident::IncidentSnapshot, outcome::Reason, update_id::UpdateId,
    },
    wire::message::{Report, Verdict},
};

use super::{
    Kind, RunVerdict,
    replay::Decisions,
    run::{Answered, Attempt, InboxRow, Run},
};

/// Compares answers with the inbox and with what is parked.
pub(super) fn compare(run: &Run, decisions: &Decisions, verdict: &mut RunVerdict) {
    let mut answers = Answers::new(run);
    answers.attribute(verdict);
    for attempt in &run.attempts {
        answers.answered(attempt, verdict);
    }
    let mut effects = Vec::new();
    for (update, attempts) in &answers.attempts {
        effects.extend(answers.effect(update, attempts, verdict));
    }
    in_order(effects, verdict);
    answers.parked(verdict);
    reported(run, decisions, verdict);
    confirmed(run, verdict);
}

struct Answers<'a> {
    run: &'a Run,
    inbox: HashMap<UpdateId, &'a InboxRow>,
    /// Every update that is or was parked.
    ever_parked: HashSet<UpdateId>,
    /// Requeued updates, whose order is not checked.
    put_back: HashSet<UpdateId>,
    attempts: BTreeMap<&'a str, Vec<&'a Attempt>>,
    rows: HashMap<&'a str, Vec<&'a InboxRow>>,
}

/// An update that was applied, and its place in the inbox.
struct Effect<'a> {
    update: &'a str,
    component: ComponentId,
    position: i64,
    /// When it was sent first.
    sent: u64,
    /// When its first 2xx was there.
    taken: Option<u64>,
}

impl<'a> Answers<'a> {
    fn new(run: &'a Run) -> Self {
        let changes = || run.transactions.iter().flat_map(|transaction| &transaction.parked);
        let ever_parked = changes().filter_map(|change| change.new.as_ref()?.update);
        let put_back = changes().filter_map(|change| change.new.as_ref().filter(|n| n.is_put_back));
        let mut attempts: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
        for attempt in &run.attempts {
            attempts.entry(&attempt.update).or_default().push(attempt);
        }
        Self {
            run,
            inbox: run.inbox.iter().map(|row| (row.id, row)).collect(),
            ever_parked: ever_parked.collect(),
            put_back: put_back.filter_map(|row| row.update).collect(),
            attempts,
            rows: HashMap::new(),
        }
    }

    /// Finds the update that each row of the inbox is of: by an answer with its id, by its text, or by
    /// the one that it repeats.
    fn attribute(&mut self, verdict: &mut RunVerdict) {
        if self.run.attempts.is_empty() {
            return;
        }
        let mut named: HashMap<UpdateId, &str> = HashMap::new();
        for attempt in &self.run.attempts {
            if let Some(id) = attempt.answer.id() {
                named.insert(id, &attempt.update);
            }
        }
        // A repetition's answer names the original, which may have had no answer of its own.
        for row in &self.run.inbox {
            if let (Some(original), Some(update)) = (row.original, named.get(&row.id).copied())
                && row.outcome == "repeated"
            {
                named.entry(original).or_insert(update);
            }
        }
        for row in &self.run.inbox {
            let by_text = || self.attempts.get_key_value(row.text.as_str()).map(|(name, _)| *name);
            let by_original = || row.original.and_then(|id| named.get(&id).copied());
            match named.get(&row.id).copied().or_else(by_text).or_else(by_original) {
                Some(update) => self.rows.entry(update).or_default().push(row),
                None => verdict.add(Kind::Doubled, format!("nobody sent {row:?}")),
            }
        }
        let mut seen = HashSet::new();
        for row in self.run.inbox.iter().filter(|row| !seen.insert(row.id)) {
            verdict.add(Kind::Doubled, format!("{} is in the inbox twice", row.id));
        }
    }

    /// One answer, and what became of the update.
    fn answered(&self, attempt: &Attempt, verdict: &mut RunVerdict) {
        let row = |id: &UpdateId| self.inbox.get(id).copied();
        match &attempt.answer {
            Answered::Outcome { id, changed, incident } => {
                let Some(row) = row(id) else {
                    verdict.add(Kind::Lost, format!("{attempt:?}"));
                    return;
                };
                let changes = !matches!(row.outcome.as_str(), "unchanged" | "suppressed");
                let holder = row.incident_id.map(|id| i64::from(id.0));
                if *changed != changes || *incident != holder || row.original.is_some() {
                    verdict.add(Kind::AnsweredOtherwise, format!("{attempt:?}, but {row:?}"));
                }
            }
            Answered::Accepted(id) => {
                if row(id).is_none() && !self.ever_parked.contains(id) {
                    verdict.add(Kind::Lost, format!("{attempt:?}"));
                }
            }
            Answered::Refused(Some(id), message) => {
                if let Some(row) = row(id) {
                    let what = format!("{row:?} took effect after `{message}`");
                    verdict.add(Kind::AnsweredOtherwise, what);
                }
            }
            // Those that are queued are counted below.
            Answered::Queued | Answered::Refused(None, _) | Answered::Unknown(_) => {}
        }
    }

    /// What one update led to, however often it was sent.
    fn effect(
        &self,
        update: &'a str,
        attempts: &[&Attempt],
        verdict: &mut RunVerdict,
    ) -> Option<Effect<'a>> {
        let rows = self.rows.get(update).map_or(&[][..], Vec::as_slice);
        let is_sent = |row: &InboxRow| {
            attempts
                .iter()
                .any(|attempt| attempt.component == row.component_id && says(attempt, row))
        };
        if let Some(row) = rows.iter().find(|row| !is_sent(row)) {
            verdict.add(Kind::AnsweredOtherwise, format!("{row:?} is not what was sent"));
        }
        let is_alert = attempts.iter().any(|attempt| attempt.is_alert);
        let decided: BTreeSet<UpdateId> =
            rows.iter().map(|row| row.original.unwrap_or(row.id)).collect();
        if (decided.len() > 1 && !is_alert) || rows.len() > attempts.len() {
            verdict.add(Kind::Doubled, format!("{update} took effect several times: {rows:?}"));
        }
        let is_queued = |attempt: &&&Attempt| matches!(attempt.answer, Answered::Queued);
        let queued = attempts.iter().filter(is_queued).count();
        if rows.len() < queued {
            let what = format!("{update} was queued {queued} times, and is there as {rows:?}");
            verdict.add(Kind::Lost, what);
        }
        let own = rows.iter().find(|row| row.original.is_none()).or_else(|| rows.first())?;
        if self.put_back.contains(&own.id) {
            return None;
        }
        let taken = attempts.iter().filter(|attempt| attempt.answer.is_taken());
        Some(Effect {
            update,
            component: own.component_id,
            position: own.position,
            sent: attempts.iter().map(|attempt| attempt.sent).min()?,
            taken: taken.map(|attempt| attempt.answered).min(),
        })
    }

    /// An update is in the inbox or parked, never both.
    fn parked(&self, verdict: &mut RunVerdict) {
        let mut seen = HashSet::new();
        for row in self.run.parked.iter().filter(|row| !row.is_put_back) {
            let Some(id) = row.update else { continue };
            if !seen.insert(id) {
                verdict.add(Kind::Doubled, format!("{id} is parked twice"));
            }
            if self.inbox.contains_key(&id) {
                verdict.add(Kind::Doubled, format!("{id} is parked and in the inbox"));
            }
        }
        // What is parked no more must have been applied.
        for id in &self.ever_parked {
            let is_there = self.run.parked.iter().any(|row| row.update == Some(*id));
            let is_known = self.run.messages.contains_key(id);
            if is_known && !is_there && !self.inbox.contains_key(id) {
                verdict.add(Kind::Lost, format!("{id} was parked, and is gone"));
            }
        }
    }
}

/// Whether a row says what was sent. In messages of older versions it is nobody's report.
fn says(attempt: &Attempt, row: &InboxRow) -> bool {
    let Some((condition, report)) = row.said() else { return false };
    let is_reported = |sent: &Report| {
        report.as_ref().is_none_or(|report| Report { ttl: sent.ttl, ..report.clone() } == *sent)
    };
    attempt.condition.is_none_or(|sent| sent == condition)
        && attempt.report.as_ref().is_none_or(is_reported)
}

/// An update that was sent after another one of its component was taken stands after it, whichever
/// clients and gateways they came through.
fn in_order(mut effects: Vec<Effect<'_>>, verdict: &mut RunVerdict) {
    effects.sort_by_key(|effect| effect.position);
    let mut latest: HashMap<ComponentId, &Effect<'_>> = HashMap::new();
    for effect in &effects {
        // The one that was sent last of those with an earlier place.
        if let Some(before) = latest.get(&effect.component)
            && effect.taken.is_some_and(|taken| taken < before.sent)
        {
            let Effect { update, component, position, .. } = effect;
            let what = format!(
                "{update} of component {component} was taken before {} was sent, but stands after \
                it, at place {position}",
                before.update
            );
            verdict.add(Kind::OutOfOrder, what);
        }
        let last = latest.entry(effect.component).or_insert(effect);
        if effect.sent > last.sent {
            *last = effect;
        }
    }
}

/// What workers reported is what the model decided.
fn reported(run: &Run, decisions: &Decisions, verdict: &mut RunVerdict) {
    let inbox: HashMap<UpdateId, &InboxRow> = run.inbox.iter().map(|row| (row.id, row)).collect();
    let parked: HashSet<UpdateId> = run
        .transactions
        .iter()
        .flat_map(|transaction| &transaction.parked)
        .filter_map(|change| change.new.as_ref()?.update)
        .collect();
    let mut decided = HashSet::new();
    for result in &run.results {
        let row = inbox.get(&result.id);
        let is_right = match &result.verdict {
            Verdict::Decided { reason, incident, .. } => {
                let is_first = decided.insert(result.id);
                let answer = decisions.get(&result.id).filter(|_| is_first);
                answer.is_some_and(|answer| is_reported(answer, *reason, incident.as_ref()))
            }
            Verdict::Repeated { original, reason, incident } => {
                let stands_for = row.map(|row| row.original.unwrap_or(row.id));
                let answer = decisions.get(original);
                stands_for == Some(*original)
                    && answer.is_some_and(|answer| {
                        let shown = answer.incident.as_ref().map(|shown| shown.id);
                        answer.reason == *reason && shown == *incident
                    })
            }
            Verdict::Rejected { .. } => row.is_some_and(|row| row.outcome == "rejected"),
            Verdict::Parked => parked.contains(&result.id),
        };
        if !is_right {
            let answer = decisions.get(&result.id);
            let what = format!("{result:?}, but {row:?}; the model has {answer:?}");
            verdict.add(Kind::AnsweredOtherwise, what);
        }
    }
}

/// Whether a worker reported what the model decided, with the incident as it stood right after.
pub(super) fn is_reported(
    answer: &Answer,
    reason: Reason,
    incident: Option<&IncidentSnapshot>,
) -> bool {
    let shown = answer.incident.as_ref().map(|shown| IncidentSnapshot {
        id: shown.id,
        text: shown.text.clone(),
        impact: shown.impact,
        start_date: shown.start,
        end_date: shown.end,
        last_update_at: shown.updates.last().map(|(at, _)| *at),
    });
    answer.reason == reason && shown.as_ref() == incident
}

/// Changes that were reported to operators as committed exist.
fn confirmed(run: &Run, verdict: &mut RunVerdict) {
    let all: HashSet<u64> = run.transactions.iter().map(|transaction| transaction.xid).collect();
    for (xid, what) in &run.confirmed {
        if !all.contains(xid) {
            let what = format!("{what}, transaction {xid}: committed, and gone");
            verdict.add(Kind::ForeignEditUndone, what);
        }
    }
}
