//! The journal, replayed through the model: what was decided, what was parked, and the state after
//! each batch and at the end.

mod placed_edits;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use model::{
    Answer,
    delivery::{KeyUse, Keys, Why},
};
use shared::{
    domain::{
        component::ComponentId,
        incident::{IncidentId, IncidentSnapshot},
        outcome::Reason,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::Verdict,
};

use self::placed_edits::{Trial, placements};
use super::{
    Kind, RunVerdict, Violation,
    model_state::ModelState,
    run::{InboxRow, ParkedChange, ParkedRow, Run, Transaction},
    tables::{Change, Row, Tables},
};

/// The application that decides.
const WORKER: &str = "worker";
/// The status of entries that the worker writes.
const SYSTEM: &str = "SYSTEM";
/// The clock follows the database's when that is so far behind the newest decision, in microseconds.
const CLOCK_SET_BACK: i64 = -9_000_000;

/// What the model made of the updates that it decided.
pub(super) type Decisions = HashMap<UpdateId, Answer>;

/// Replays a run; notes what is wrong, and returns what the model decided.
pub(super) fn replay(run: &Run, verdict: &mut RunVerdict) -> Decisions {
    let mut replay = Replay::new(run);
    for transaction in &run.transactions {
        replay.take(transaction);
    }
    replay.end();
    verdict.violations.append(&mut replay.verdict.violations);
    verdict.compared.add(&replay.verdict.compared);
    replay.decisions
}

struct Replay<'a> {
    run: &'a Run,
    inbox: HashMap<UpdateId, &'a InboxRow>,
    /// What a worker reported of an update that it decided.
    reported: HashMap<UpdateId, (Reason, Option<&'a IncidentSnapshot>)>,
    model: ModelState,
    tables: Tables,
    /// Edits by others that no batch saw so far, in their order.
    unseen: Vec<&'a Transaction>,
    position: i64,
    decided_at: Option<Timestamp>,
    keys: Keys,
    settled: HashSet<UpdateId>,
    parked: BTreeMap<i64, &'a ParkedRow>,
    decisions: Decisions,
    verdict: RunVerdict,
}

/// A row of the inbox, and what the idempotency keys say of it.
type Decided<'a> = (&'a InboxRow, KeyUse);

impl<'a> Replay<'a> {
    fn new(run: &'a Run) -> Self {
        let mut reported = HashMap::new();
        for result in &run.results {
            if let Verdict::Decided { reason, incident, .. } = &result.verdict {
                reported.entry(result.id).or_insert((*reason, incident.as_ref()));
            }
        }
        Self {
            run,
            reported,
            inbox: run.inbox.iter().map(|row| (row.id, row)).collect(),
            model: ModelState::new(&run.start, &run.start_reports),
            tables: run.start.clone(),
            unseen: Vec::new(),
            position: run.start_position,
            decided_at: None,
            keys: Keys::default(),
            settled: HashSet::new(),
            parked: BTreeMap::new(),
            decisions: Decisions::new(),
            verdict: RunVerdict::default(),
        }
    }

    fn take(&mut self, transaction: &'a Transaction) {
        let parks = transaction.parked.iter().any(|change| is_parking(change).is_some());
        let is_batch = !transaction.decided.is_empty() || parks;
        if is_batch && transaction.application == WORKER {
            self.batch(transaction);
            return;
        }
        let operators = &self.run.expected.operators;
        if !operators.is_empty() && !operators.contains(&transaction.application) {
            let Transaction { xid, application, .. } = transaction;
            let what = format!("transaction {xid} of `{application}` is no batch: {transaction:?}");
            self.verdict.add(Kind::Unexplained, what);
        }
        for change in &transaction.parked {
            self.note_parked(change);
        }
        if !transaction.changes.is_empty() {
            self.verdict.compared.foreign += 1;
            self.unseen.push(transaction);
        }
    }

    fn note_parked(&mut self, change: &'a ParkedChange) {
        if let Some(old) = &change.old {
            self.parked.remove(&old.id);
        }
        if let Some(new) = &change.new {
            self.parked.insert(new.id, new);
        }
    }

    fn batch(&mut self, batch: &'a Transaction) {
        let rows = self.rows(batch);
        let sees = |edit: &&Transaction| {
            batch.snapshot.as_ref().is_none_or(|snapshot| snapshot.sees(edit.xid))
        };
        let (edits, unseen): (Vec<_>, Vec<_>) = self.unseen.drain(..).partition(|e| sees(e));
        self.unseen = unseen;
        let is_before: Vec<bool> = edits.iter().map(|edit| self.is_before(edit, batch)).collect();
        self.verdict.compared.beside += is_before.iter().filter(|is| !**is).count();

        let mut changes: Vec<&Change> = batch.changes.iter().collect();
        changes.extend(edits.iter().flat_map(|edit| &edit.changes));
        changes.sort_by_key(|change| change.seq);
        for change in &changes {
            self.tables.change(change);
        }
        let written: BTreeSet<IncidentId> = changes
            .iter()
            .flat_map(|change| change.old.iter().chain(&change.new))
            .filter_map(Row::incident)
            .collect();

        let placements = placements(&is_before);
        let mut best: Option<Trial> = None;
        let last = placements.len() - 1;
        for (number, placement) in placements.iter().enumerate() {
            let model = if number == last && best.is_none() {
                std::mem::take(&mut self.model)
            } else {
                self.model.clone()
            };
            let trial = self.attempt(model, batch, &rows, &edits, placement, &written);
            if best.as_ref().is_none_or(|best| trial.faults() < best.faults()) {
                best = Some(trial);
            }
            if best.as_ref().is_some_and(|best| best.faults() == (0, 0)) {
                break;
            }
        }
        let Some(Trial { model, violations, answers, touched, .. }) = best else { return };
        self.model = model;
        if !violations.is_empty() {
            // One fault is said once: from here on what is there counts.
            for id in touched {
                self.model.take_over(id, &self.tables);
            }
        }
        self.verdict.violations.extend(violations);
        for (id, answer) in answers {
            self.verdict.compared.decided(answer.reason);
            self.decisions.insert(id, answer);
        }
        self.entries(batch);
        for change in &batch.parked {
            if let Some(why) = is_parking(change).and_then(|row| Why::of_reason(&row.reason)) {
                *self.verdict.compared.parked.entry(why).or_default() += 1;
            }
            self.note_parked(change);
        }
        self.settled.extend(rows.iter().map(|(row, _)| row.id));
    }

    /// The rows that a batch put into the inbox, in their order.
    fn rows(&mut self, batch: &Transaction) -> Vec<Decided<'a>> {
        let mut rows: Vec<&'a InboxRow> = Vec::new();
        for id in &batch.decided {
            match self.inbox.get(id) {
                Some(row) => rows.push(row),
                None => self.verdict.add(Kind::Lost, format!("{id} was in the inbox, and is gone")),
            }
        }
        rows.sort_by_key(|row| row.position);
        for row in &rows {
            let next = self.position + 1;
            if row.position > next {
                let what = format!("places {next} to {} are left out", row.position - 1);
                self.verdict.add(Kind::Lost, what);
            } else if row.position < next {
                let what = format!("{row:?} comes after place {}", self.position);
                self.verdict.add(Kind::OutOfOrder, what);
            }
            self.position = self.position.max(row.position);
            if let Some(last) = self.decided_at {
                let step = row.decided_at.as_micros() - last.as_micros();
                if (CLOCK_SET_BACK..=0).contains(&step) {
                    let what = format!("{row:?} is decided {step} µs after the one before");
                    self.verdict.add(Kind::OutOfOrder, what);
                }
            }
            self.decided_at = Some(row.decided_at);
        }
        rows.into_iter().map(|row| (row, self.key_use(row))).collect()
    }

    /// What the keys say of an update. Where its key is not known, the inbox says whether it was used.
    fn key_use(&mut self, row: &InboxRow) -> KeyUse {
        let key_use = match (self.run.messages.get(&row.id), row.original) {
            (Some(message), _) => {
                self.keys.used(row.id, message.idempotency.as_ref(), row.source.as_deref())
            }
            (None, None) => KeyUse::First,
            (None, Some(original)) => {
                let same = |first: &&&InboxRow| {
                    first.component_id == row.component_id
                        && first.impact == row.impact
                        && first.text == row.text
                };
                let first = self.inbox.get(&original).filter(same);
                // The source may be a part of the body, or of the token.
                let is_of_another = |first: &&InboxRow| first.source != row.source;
                match (row.outcome.as_str(), first) {
                    ("rejected", first) if first.is_none_or(is_of_another) => {
                        KeyUse::Rejected(original)
                    }
                    ("repeated", Some(_)) => KeyUse::Repeats(original),
                    // Not what it repeats, or the same as what rejects it.
                    _ => KeyUse::First,
                }
            }
        };
        self.verdict.compared.keys += usize::from(key_use != KeyUse::First);
        key_use
    }

    /// Whether an edit was committed before the batch began.
    fn is_before(&self, edit: &Transaction, batch: &Transaction) -> bool {
        let marks = &self.run.marks;
        marks.iter().any(|mark| mark.at < batch.began && mark.snapshot.sees(edit.xid))
    }

    /// The worker only ever adds to timelines, and always in its own name.
    fn entries(&mut self, batch: &Transaction) {
        for change in &batch.changes {
            if let Some(Row::Status(incident, _, entry)) = &change.new {
                self.verdict.compared.entries += 1;
                if entry.status != SYSTEM {
                    let what = format!("incident {incident}: {entry:?} is not {SYSTEM}");
                    self.verdict.add(Kind::Timeline, what);
                }
            }
        }
    }

    /// What no batch saw comes last; then the model has what the database has.
    fn end(&mut self) {
        for edit in std::mem::take(&mut self.unseen) {
            for change in &edit.changes {
                self.model.change(change);
                self.tables.change(change);
            }
        }
        if self.position > self.run.start_position
            && let Some(row) = self.run.inbox.iter().find(|row| row.position > self.position)
        {
            self.verdict.add(Kind::Unexplained, format!("no batch put {row:?} into the inbox"));
        }
        let expected = self.model.world.incidents.keys();
        let all: BTreeSet<IncidentId> =
            expected.chain(self.run.end.incidents.keys()).copied().collect();
        let mut found = Vec::new();
        for id in all {
            self.model.differences(id, &self.run.end, &mut found);
        }
        if let Some(now) = self.decided_at {
            self.model.report_differences(&self.run.end_reports, now, &mut found);
        }
        if found.is_empty() && self.tables != self.run.end {
            let what = difference(&self.tables, &self.run.end);
            found.push(Violation { kind: Kind::Unexplained, what });
        }
        self.verdict.violations.extend(found);
        let parked: BTreeMap<i64, &ParkedRow> =
            self.run.parked.iter().map(|row| (row.id, row)).collect();
        for (id, row) in &self.parked {
            if parked.get(id) != Some(row) {
                self.verdict.add(Kind::NotParked, format!("{row:?} is not parked any more"));
            }
        }
        for (id, row) in parked {
            if !self.parked.contains_key(&id) {
                self.verdict.add(Kind::ParkedUnasked, format!("no batch parked {row:?}"));
            }
        }
    }
}

/// The row that a worker parked, unless the change is another one.
fn is_parking(change: &ParkedChange) -> Option<&ParkedRow> {
    let new = change.new.as_ref().filter(|new| !new.is_put_back)?;
    match &change.old {
        None => Some(new),
        // Requeued and parked again; not one that could not be requeued.
        Some(old) if old.is_put_back && old.parked_at != new.parked_at => Some(new),
        Some(_) => None,
    }
}

/// The first row that is not the same, in words.
fn difference(journal: &Tables, end: &Tables) -> String {
    let statuses = journal.statuses.iter().find(|(key, row)| end.statuses.get(*key) != Some(row));
    let gone: Vec<&ComponentId> =
        journal.components.keys().filter(|id| !end.components.contains_key(id)).collect();
    format!(
        "the tables have something that no transaction of the journal wrote: statuses {statuses:?}, \
        components {gone:?}, {} and {} incidents",
        journal.incidents.len(),
        end.incidents.len()
    )
}
