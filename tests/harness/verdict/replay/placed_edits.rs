//! One batch, decided by the model with the edits beside it at one place each.

use std::collections::BTreeSet;

use model::{
    Answer, Post,
    delivery::{Content, KeyUse, Why, must_be_parked},
    is_one_report_too_many,
};
use shared::{
    domain::{incident::IncidentId, update_id::UpdateId},
    wire::message::{DecodeError, UpdateMessage},
};

use super::{Decided, Replay, is_parking};
use crate::verdict::{
    Kind, Violation,
    answers::is_reported,
    model_state::ModelState,
    run::{InboxRow, ParkedChange, ParkedRow, Transaction},
};

/// Edits beside one batch for which every placement is tried, not only those in their order.
const FEW: usize = 6;

/// What came of a batch with the edits beside it at one place each.
pub(super) struct Trial {
    pub(super) model: ModelState,
    pub(super) violations: Vec<Violation>,
    pub(super) answers: Vec<(UpdateId, Answer)>,
    /// Answers that a worker reported otherwise: then the edits may have been at another place. They are
    /// violations of the answers, not of the replay.
    misreported: usize,
    /// What may have changed.
    pub(super) touched: BTreeSet<IncidentId>,
}

impl Trial {
    pub(super) fn faults(&self) -> (usize, usize) {
        (self.violations.len(), self.misreported)
    }
}

impl Replay<'_> {
    pub(super) fn attempt(
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
            let shown = trial.answers.iter().filter_map(|(_, answer)| answer.incident.as_ref());
            trial.touched.extend(shown.map(|incident| incident.id));
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
        let is_keys = row.original == original && word.is_none_or(|word| row.outcome == word);
        if !is_keys {
            let what = format!("{row:?}: by its idempotency key it is {key_use:?}");
            wrong(Kind::DecidedOtherwise, what);
        }
        if row.original.is_some() {
            return;
        }
        let (true, Some((condition, report))) =
            (trial.model.world.catalogue.contains_key(&row.component_id), row.said())
        else {
            return;
        };
        let post = Post {
            component: row.component_id,
            condition,
            report,
            text: row.text.clone(),
            at: row.decided_at,
        };
        let is_rejected = row.outcome == "rejected";
        if is_one_report_too_many(&trial.model.world, &post) != is_rejected {
            let what = format!("{row:?}: the model counts its component's reports otherwise");
            wrong(Kind::DecidedOtherwise, what);
        }
        if is_rejected {
            return;
        }
        let free = |id: &IncidentId| !trial.model.world.incidents.contains_key(id);
        let next = trial.model.world.next_id();
        let opens = row.incident_id.filter(free).unwrap_or(next);
        let answer = model::apply_opening(&mut trial.model.world, &post, opens);
        let (reason, outcome) = (answer.reason.word(), answer.reason.outcome().word());
        let shown = answer.incident.as_ref().map(|incident| incident.id);
        if row.reason != reason || row.outcome != outcome || row.incident_id != shown {
            let what = format!("{row:?}: the model has {outcome}, {reason}, {shown:?}");
            wrong(Kind::DecidedOtherwise, what);
        }
        if let Some((reason, incident)) = self.reported.get(&row.id) {
            trial.misreported += usize::from(!is_reported(&answer, *reason, *incident));
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
}

/// Where the edits beside a batch may stand: before it or not. First those in which they keep their
/// order, the earlier ones before it.
pub(super) fn placements(is_before: &[bool]) -> Vec<Vec<bool>> {
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
