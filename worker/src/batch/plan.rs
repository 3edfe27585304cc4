//! Plans a batch: decides message by message, in order, what to write and answer. Pure.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use shared::{
    component::ComponentId,
    impact::Impact,
    incident::{IncidentId, IncidentSnapshot},
    message::{UpdateMessage, UpdateResult, Verdict},
    outcome::Reason,
    timestamp::Timestamp,
    update_id::UpdateId,
};

use super::{
    deferred::Blocked,
    message::{Applied, Incoming, Unusable},
};
use crate::{
    domain::{ActiveState, Holder, IncidentRef, decide, timeline::TimelineEntry},
    store::{
        facts::Facts,
        inbox::{Ending, PendingRow},
        parked::MessageToPark,
        row_locks::{LockableRow, RowLocks},
    },
};

/// The changes of a batch, before they are written.
pub(super) struct Plan<'a> {
    /// One for each message.
    planned: Vec<Planned>,
    pub(super) timeline: Vec<TimelineEntry>,
    pub(super) rows: Vec<PendingRow<'a>>,
    pub(super) parked: Vec<MessageToPark<'a>>,
    /// The rows that the changes depend on.
    pub(super) rests_on: HashSet<LockableRow>,
}

/// The planned result of one message.
enum Planned {
    /// A rule decided it.
    Decided { reason: Reason, shown: DecidedIncident },
    /// It needs no decision: it was applied before, is rejected, or is parked. There is no verdict if a
    /// version with other rules applied it.
    Settled(Option<Verdict>),
    /// The batch has another message with the same id or idempotency key, at this earlier place.
    SameAs(usize),
    /// Another session has locked these incidents, or an earlier update of the component is deferred.
    Deferred(Vec<IncidentId>),
}

/// The incident of an answer, which may have no id yet.
struct DecidedIncident {
    incident: IncidentRef,
    text: String,
    impact: Impact,
    start_date: Timestamp,
    end_date: Option<Timestamp>,
    last_update_at: Option<Timestamp>,
}

/// Plans a batch. `read` is the state as it was read; `active` starts equal to it and is changed by the
/// decisions.
pub(super) fn plan<'a>(
    batch: &'a [Incoming],
    facts: &'a Facts,
    read: &ActiveState,
    active: &mut ActiveState,
    locks: &RowLocks,
    blocked: &Blocked,
) -> Plan<'a> {
    let mut planner = Planner {
        facts,
        read,
        active,
        locks,
        blocked: blocked.clone(),
        places: HashMap::with_capacity(batch.len()),
        keys: HashMap::new(),
        parked: HashSet::new(),
        plan: Plan {
            planned: Vec::with_capacity(batch.len()),
            timeline: Vec::new(),
            rows: Vec::with_capacity(batch.len()),
            parked: Vec::new(),
            rests_on: HashSet::new(),
        },
    };
    for (place, incoming) in batch.iter().enumerate() {
        let planned = match &incoming.content {
            Ok(update) => planner.update(place, incoming, update),
            Err(problem) => planner.unusable(place, incoming, problem),
        };
        planner.plan.planned.push(planned);
    }
    planner.plan
}

/// A batch that is being planned.
struct Planner<'a, 'b> {
    facts: &'a Facts,
    read: &'b ActiveState,
    active: &'b mut ActiveState,
    locks: &'b RowLocks,
    blocked: Blocked,
    /// The first position of each update.
    places: HashMap<UpdateId, usize>,
    /// The idempotency keys first used by this batch, each with its position, fingerprint and update.
    keys: HashMap<&'a str, (usize, &'a str, UpdateId)>,
    /// The delivery keys of what is parked.
    parked: HashSet<String>,
    plan: Plan<'a>,
}

impl<'a> Planner<'a, '_> {
    /// A message that can't be applied: it is parked, unless it was applied before.
    fn unusable(&mut self, place: usize, incoming: &'a Incoming, problem: &Unusable) -> Planned {
        if self.blocked.blocks(incoming) {
            return Planned::Deferred(Vec::new());
        }
        match (problem, incoming.update_id()) {
            // It may have been applied, and only its acknowledgement lost.
            (Unusable::GivenUp(_) | Unusable::Refused(_), Some(id)) => {
                if let Some(verdict) = self.facts.known.get(&id) {
                    return Planned::Settled(verdict.clone());
                }
                if let Some(first) = self.earlier(id, place) {
                    return Planned::SameAs(first);
                }
            }
            // The publisher of an unreadable message may have used any id.
            (Unusable::Unreadable(_), _) | (_, None) => {}
        }
        self.park(incoming, &problem.to_string())
    }

    fn update(
        &mut self,
        place: usize,
        incoming: &'a Incoming,
        update: &'a UpdateMessage,
    ) -> Planned {
        if let Some(verdict) = self.facts.known.get(&update.id) {
            return Planned::Settled(verdict.clone());
        }
        if self.blocked.blocks(incoming) {
            self.blocked.add(update);
            return Planned::Deferred(Vec::new());
        }
        if let Some(first) = self.earlier(update.id, place) {
            return Planned::SameAs(first);
        }
        if let Some(problem) = self.component_problem(update) {
            return self.park(incoming, &problem);
        }
        match self.repetition(update) {
            Some(planned) => planned,
            None => self.decide(place, update),
        }
    }

    /// The earlier position of the update in the batch; none for the first occurrence, which is recorded.
    fn earlier(&mut self, id: UpdateId, place: usize) -> Option<usize> {
        match self.places.entry(id) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(place);
                None
            }
        }
    }

    /// Why the update can't be applied to its component.
    fn component_problem(&self, update: &UpdateMessage) -> Option<String> {
        let problem = match self.facts.components.get(&update.component.id) {
            None => "is gone",
            Some(current) if !update.component.is_still(current) => "now names another one",
            Some(_) => return None,
        };
        let (id, label) = (update.component.id, update.component.label());
        Some(format!("component {id}, {label}, {problem}"))
    }

    /// Parks a message once, even if the batch contains it several times.
    fn park(&mut self, incoming: &'a Incoming, reason: &str) -> Planned {
        let parked = incoming.parked(reason);
        if self.parked.insert(parked.delivery_key.clone()) {
            self.plan.parked.push(parked);
        }
        Planned::Settled(Some(Verdict::Parked))
    }

    /// The result of an update whose idempotency key is in use; none for the first use.
    fn repetition(&mut self, update: &'a UpdateMessage) -> Option<Planned> {
        let key = update.idempotency.as_ref()?;
        let (fingerprint, original, same) =
            match (self.facts.keys.get(&key.key), self.keys.get(key.key.as_str())) {
                (Some(first), _) => {
                    let verdict = first.verdict.clone();
                    (first.fingerprint.as_str(), first.original, Planned::Settled(verdict))
                }
                (None, Some(&(place, fingerprint, original))) => {
                    (fingerprint, original, Planned::SameAs(place))
                }
                (None, None) => return None,
            };
        if key.fingerprint == fingerprint {
            self.record(update, Ending::Repeated { original });
            Some(same)
        } else {
            self.record(update, Ending::Rejected { original });
            Some(Planned::Settled(Some(Verdict::Rejected)))
        }
    }

    /// Decides an update by the rules, unless another session has locked rows that the change depends on.
    fn decide(&mut self, place: usize, update: &'a UpdateMessage) -> Planned {
        let (id, now) = (update.component.id, self.next_time());
        let decision = decide(self.active, id, update.impact, now);
        let rests_on = LockableRow::of(decision.rests_on(), id, self.read);
        let held = self.locks.held_of(&rests_on);
        if !held.is_empty() {
            self.blocked.add(update);
            return Planned::Deferred(held);
        }
        self.plan.rests_on.extend(rests_on);
        if let Some(key) = &update.idempotency {
            self.keys.insert(&key.key, (place, &key.fingerprint, update.id));
        }
        let effect = self.active.carry_out(decision, id, update.impact, &update.text, now);
        let (reason, shown) = (effect.reason, DecidedIncident::new(self.active, id, effect.holder));
        self.plan.timeline.extend(effect.timeline);
        self.record(update, Ending::Decided { reason, holder: shown.incident });
        Planned::Decided { reason, shown }
    }

    /// When the next row of the inbox is decided.
    fn next_time(&self) -> Timestamp {
        self.facts.now.plus_micros(self.plan.rows.len() as i64)
    }

    /// Adds a row to the inbox.
    fn record(&mut self, update: &'a UpdateMessage, ending: Ending) {
        let position = self.facts.position + 1 + self.plan.rows.len() as i64;
        let decided_at = self.next_time();
        self.plan.rows.push(PendingRow { update, position, decided_at, ending });
    }
}

impl DecidedIncident {
    /// The incident that holds or covers a component, in its current state.
    fn new(active: &ActiveState, component: ComponentId, holder: Holder) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "an effect names incidents of the state it was taken into"
        )]
        match holder {
            Holder::System(incident) => {
                let shown = active.any_incident(incident).expect("the holder is in the state");
                Self {
                    incident,
                    text: shown.text.clone(),
                    impact: shown.impact,
                    start_date: shown.start_date,
                    end_date: shown.end_date,
                    last_update_at: shown.last_update_at,
                }
            }
            Holder::Manual(place) => {
                let shown = active.manual.get(&component).and_then(|all| all.get(place));
                let shown = shown.expect("the holder is in the state");
                Self {
                    incident: IncidentRef::Existing(shown.id),
                    text: shown.text.clone(),
                    impact: shown.impact,
                    start_date: shown.start_date,
                    end_date: shown.end_date,
                    last_update_at: shown.last_update_at,
                }
            }
        }
    }

    fn snapshot(self, new_ids: &[IncidentId]) -> IncidentSnapshot {
        IncidentSnapshot {
            id: self.incident.id(new_ids),
            text: self.text,
            impact: self.impact,
            start_date: self.start_date,
            end_date: self.end_date,
            last_update_at: self.last_update_at,
        }
    }
}

impl Plan<'_> {
    /// The result of each message, after the commit.
    pub(super) fn results(self, batch: &[Incoming], new_ids: &[IncidentId]) -> Vec<Applied> {
        let mut results: Vec<Applied> = Vec::with_capacity(batch.len());
        for (incoming, planned) in batch.iter().zip(self.planned) {
            let verdict = match planned {
                Planned::Decided { reason, shown } => {
                    Some(Verdict::Decided { reason, incident: shown.snapshot(new_ids) })
                }
                Planned::Settled(verdict) => verdict,
                Planned::SameAs(place) => match results.get(place) {
                    Some(Applied::Settled(first)) => first.clone().map(repeated),
                    Some(Applied::Deferred(_)) | None => None,
                },
                Planned::Deferred(held) => {
                    results.push(Applied::Deferred(held));
                    continue;
                }
            };
            let id = incoming.update_id();
            let result = verdict.zip(id).map(|(verdict, id)| UpdateResult { id, verdict });
            results.push(Applied::Settled(result));
        }
        results
    }
}

/// The verdict for a repetition of an update applied by this batch.
fn repeated(first: UpdateResult) -> Verdict {
    match first.verdict {
        Verdict::Decided { reason, incident } => {
            Verdict::Repeated { original: first.id, reason, incident: incident.id }
        }
        other @ (Verdict::Repeated { .. } | Verdict::Rejected | Verdict::Parked) => other,
    }
}
