//! The journal, replayed through the model: what was decided, what was parked, and the state after
//! each batch and at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use model::{
    Answer, Post,
    delivery::{Content, KeyUse, Keys, Why, must_be_parked},
};
use shared::{
    component::ComponentId,
    impact::Impact,
    incident::{IncidentId, IncidentSnapshot},
    message::{DecodeError, UpdateMessage, Verdict as Reported},
    outcome::Reason,
    timestamp::Timestamp,
    update_id::UpdateId,
};

use super::{
    Kind, Verdict, Violation,
    answers::is_reported,
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
/// Edits beside one batch for which every placement is tried, not only those in their order.
const FEW: usize = 6;

/// What the model made of the updates that it decided.
pub(super) type Decisions = HashMap<UpdateId, Answer>;

/// Replays a run; notes what is wrong, and returns what the model decided.
pub(super) fn replay(run: &Run, verdict: &mut Verdict) -> Decisions {
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
    reported: HashMap<UpdateId, (Reason, &'a IncidentSnapshot)>,
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
    verdict: Verdict,
}

/// A row of the inbox, and what the idempotency keys say of it.
type Decided<'a> = (&'a InboxRow, KeyUse);

/// What came of a batch with the edits beside it at one place each.
struct Trial {
    model: ModelState,
    violations: Vec<Violation>,
    answers: Vec<(UpdateId, Answer)>,
    /// Answers that a worker reported otherwise: then the edits may have been at another place. They are
    /// violations of the answers, not of the replay.
    misreported: usize,
    /// What may have changed.
    touched: BTreeSet<IncidentId>,
}

impl Trial {
    fn faults(&self) -> (usize, usize) {
        (self.violations.len(), self.misreported)
    }
}

impl<'a> Replay<'a> {
    fn new(run: &'a Run) -> Self {
        let mut reported = HashMap::new();
        for result in &run.results {
            if let Reported::Decided { reason, incident } = &result.verdict {
                reported.entry(result.id).or_insert((*reason, incident));
            }
        }
        Self {
            run,
            reported,
            inbox: run.inbox.iter().map(|row| (row.id, row)).collect(),
            model: ModelState::new(&run.start),
            tables: run.start.clone(),
            unseen: Vec::new(),
            position: run.start_position,
            decided_at: None,
            keys: Keys::default(),
            settled: HashSet::new(),
            parked: BTreeMap::new(),
            decisions: Decisions::new(),
            verdict: Verdict::default(),
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
            (Some(message), _) => self.keys.used(row.id, message.idempotency.as_ref()),
            (None, None) => KeyUse::First,
            (None, Some(original)) => {
                let same = |first: &&&InboxRow| {
                    first.component_id == row.component_id
                        && first.impact == row.impact
                        && first.text == row.text
                };
                let first = self.inbox.get(&original).filter(same);
                match (row.outcome.as_str(), first) {
                    ("rejected", None) => KeyUse::Rejected(original),
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

    fn attempt(
        &self,
        model: ModelState,
        batch: &Transaction,
        rows: &[Decided<'_>],
        edits: &[&Transaction],
        placement: &[bool],
        written: &BTreeSet<IncidentId>,
    ) -> Trial {
        let mut trial = Trial {
            model,
            violations: Vec::new(),
            answers: Vec::new(),
            misreported: 0,
            touched: written.clone(),
        };
        let at = |before: bool| {
            let placed = edits.iter().zip(placement).filter(move |(_, is)| **is == before);
            placed.flat_map(|(edit, _)| &edit.changes)
        };
        at(true).for_each(|change| trial.model.change(change));
        let all = &trial.model.world.incidents;
        let active = all.iter().filter(|(_, incident)| incident.is_active_system_incident());
        let active: Vec<IncidentId> = active.map(|(id, _)| *id).collect();
        for decided in rows {
            self.decide(decided, &mut trial);
        }
        for change in &batch.parked {
            self.parked(change, batch, &mut trial);
        }
        at(false).for_each(|change| trial.model.change(change));
        if trial.answers.iter().any(|(_, answer)| answer.reason.outcome().is_change()) {
            trial.touched.extend(active);
            trial.touched.extend(trial.answers.iter().map(|(_, answer)| answer.id));
        }
        for id in &trial.touched {
            trial.model.differences(*id, &self.tables, &mut trial.violations);
        }
        trial
    }

    /// One row of the inbox: the model must decide the same.
    fn decide(&self, (row, key_use): &Decided<'_>, trial: &mut Trial) {
        let mut wrong = |kind, what: String| trial.violations.push(Violation { kind, what });
        if let Some(why) = self.why_parked(row, &trial.model) {
            wrong(Kind::NotParked, format!("{row:?} was applied, though {why}"));
        }
        let (word, original) = match key_use {
            KeyUse::First => (None, None),
            KeyUse::Repeats(original) => (Some("repeated"), Some(*original)),
            KeyUse::Rejected(original) => (Some("rejected"), Some(*original)),
        };
        if row.original != original || word.is_some_and(|word| row.outcome != word) {
            let what = format!("{row:?}: by its idempotency key it is {key_use:?}");
            wrong(Kind::DecidedOtherwise, what);
        }
        if row.original.is_some() {
            return;
        }
        let (true, Ok(impact)) = (
            trial.model.world.catalogue.contains_key(&row.component_id),
            Impact::try_from(row.impact),
        ) else {
            return;
        };
        let post = Post {
            component: row.component_id,
            impact,
            text: row.text.clone(),
            at: row.decided_at,
        };
        let free = |id: &IncidentId| !trial.model.world.incidents.contains_key(id);
        let next = trial.model.world.next_id();
        let opens = row.incident_id.filter(free).unwrap_or(next);
        let answer = model::apply_opening(&mut trial.model.world, &post, opens);
        let (reason, outcome) = (answer.reason.word(), answer.reason.outcome().word());
        if row.reason != reason || row.outcome != outcome || row.incident_id != Some(answer.id) {
            let what = format!("{row:?}: the model has {outcome}, {reason}, {}", answer.id);
            wrong(Kind::DecidedOtherwise, what);
        }
        if let Some((reason, incident)) = self.reported.get(&row.id) {
            trial.misreported += usize::from(!is_reported(&answer, *reason, incident));
        }
        trial.answers.push((row.id, answer));
    }

    /// Why an update that was applied had to be parked instead.
    fn why_parked(&self, row: &InboxRow, model: &ModelState) -> Option<Why> {
        let catalogue = &model.world.catalogue;
        match self.run.messages.get(&row.id) {
            Some(message) => {
                let whys: Vec<Option<Why>> =
                    message.delivered_as.iter().map(|c| must_be_parked(catalogue, c)).collect();
                // One of its deliveries may be applied.
                if whys.contains(&None) { None } else { whys.into_iter().flatten().next() }
            }
            None => (!catalogue.contains_key(&row.component_id)).then_some(Why::ComponentGone),
        }
    }

    /// One change of what is parked: the model must have the reason.
    fn parked(&self, change: &ParkedChange, batch: &Transaction, trial: &mut Trial) {
        let mut wrong = |kind, what: String| trial.violations.push(Violation { kind, what });
        let Some(row) = is_parking(change) else {
            let id = change.old.as_ref().and_then(|old| old.update);
            if change.new.is_none() && id.is_none_or(|id| !batch.decided.contains(&id)) {
                wrong(Kind::Lost, format!("{change:?}: no longer parked, and not applied"));
            }
            return;
        };
        let message = row.update.and_then(|id| self.run.messages.get(&id));
        let contents = match message {
            Some(message) => message.delivered_as.clone(),
            None => self.contents(row),
        };
        let is_settled = row.update.is_some_and(|id| self.settled.contains(&id));
        let catalogue = &trial.model.world.catalogue;
        let mut whys: BTreeSet<Why> =
            contents.iter().filter_map(|content| must_be_parked(catalogue, content)).collect();
        whys.retain(|why| !is_settled || !matches!(why, Why::GivenUp | Why::Refused));
        if Why::of_reason(&row.reason).is_none_or(|why| !whys.contains(&why)) {
            let what = format!("{:?} because `{}`; the model has {whys:?}", row.update, row.reason);
            wrong(Kind::ParkedUnasked, what);
        }
    }

    /// In which forms a message may have been delivered of which only the bytes are known.
    fn contents(&self, row: &ParkedRow) -> Vec<Content> {
        let bytes = match UpdateMessage::decode(&row.payload) {
            Ok(update) => Content::Update(update.component),
            Err(DecodeError::Version(_)) => Content::OtherVersion,
            Err(_) => Content::Unreadable,
        };
        if self.run.expected.unknown_may_be_given_up {
            vec![bytes, Content::GivenUp, Content::Refused]
        } else {
            vec![bytes]
        }
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

/// Where the edits beside a batch may stand: before it or not. First those in which they keep their
/// order, the earlier ones before it.
fn placements(is_before: &[bool]) -> Vec<Vec<bool>> {
    let fits = |placement: &Vec<bool>| {
        placement.iter().zip(is_before).all(|(placed, must)| *placed || !must)
    };
    let count = is_before.len();
    let mut all: Vec<Vec<bool>> = (0..=count)
        .rev()
        .map(|before| (0..count).map(|edit| edit < before).collect())
        .filter(fits)
        .collect();
    let free = is_before.iter().filter(|must| !**must).count();
    if free <= FEW && count < usize::BITS as usize {
        let any = (0..1_usize << free).map(|bits| {
            let mut free = 0..;
            is_before
                .iter()
                .map(|must| *must || free.next().is_some_and(|place| bits >> place & 1 == 1))
                .collect()
        });
        let others: Vec<Vec<bool>> = any.filter(|placement| !all.contains(placement)).collect();
        all.extend(others);
    }
    all
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
