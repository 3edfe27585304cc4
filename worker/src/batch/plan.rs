//! Plans a batch: decides message by message, in order, what to write and answer. Pure.

use std::collections::{HashMap, HashSet};

use shared::{
    domain::{
        component::ComponentId,
        incident::{IncidentId, IncidentSnapshot},
        outcome::{InboxOutcome, Rejection},
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::{Idempotency, UpdateMessage, Verdict},
};

use super::{
    deferred::Blocked,
    message::{Incoming, MessageResult, Unusable},
};
use crate::{
    domain::{
        ActiveState, IncidentRef, Reports, Update, UpdateDecision, decide_update,
        timeline::TimelineEntry,
    },
    store::{
        facts::Facts,
        inbox::PendingRow,
        incident_row_locks::{LockableRow, RowLocks},
        parked::MessageToPark,
        reports::{ReportsRead, ReportsToWrite},
    },
};

/// The changes of a batch, before they are written.
pub(super) struct Plan<'a> {
    /// One for each message.
    planned: Vec<Planned>,
    pub(super) timeline: Vec<TimelineEntry>,
    pub(super) rows: Vec<PendingRow<'a>>,
    pub(super) parked: Vec<MessageToPark<'a>>,
    pub(super) reports: ReportsToWrite<'a>,
    /// The rows that the changes depend on.
    pub(super) rests_on: HashSet<LockableRow>,
}

/// The result of a message that is planned.
type Planned = MessageResult<IncidentRef>;

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
    let reports = facts.reports.as_ref().map(ReportsRead::state);
    let were_read = reports.is_some();
    let mut planner = Planner {
        facts,
        reports: reports.unwrap_or_default(),
        read,
        active,
        locks,
        blocked: blocked.clone(),
        repetitions: HashMap::with_capacity(batch.len()),
        keys: HashMap::new(),
        parked: HashSet::new(),
        plan: Plan {
            planned: Vec::with_capacity(batch.len()),
            timeline: Vec::new(),
            rows: Vec::with_capacity(batch.len()),
            parked: Vec::new(),
            reports: ReportsToWrite::default(),
            rests_on: HashSet::new(),
        },
    };
    for incoming in batch {
        let planned = match &incoming.content {
            Ok(update) => planner.update(incoming, update),
            Err(problem) => planner.unusable(incoming, problem),
        };
        planner.plan.planned.push(planned);
    }
    let Planner { mut plan, reports, .. } = planner;
    plan.reports = ReportsToWrite::new(&reports, were_read, facts.now);
    plan
}

/// A batch that is being planned.
struct Planner<'a, 'b> {
    facts: &'a Facts,
    reports: Reports<'a>,
    read: &'b ActiveState,
    active: &'b mut ActiveState,
    locks: &'b RowLocks,
    blocked: Blocked,
    /// For each update that the batch has had so far, what becomes of a repetition.
    repetitions: HashMap<UpdateId, Planned>,
    /// The idempotency keys first used by this batch: the update, and what becomes of its repetition.
    keys: HashMap<&'a str, (&'a UpdateMessage, Planned)>,
    /// The delivery keys of what is parked.
    parked: HashSet<String>,
    plan: Plan<'a>,
}

impl<'a> Planner<'a, '_> {
    /// A message that can't be applied: it is parked, unless it was applied before.
    fn unusable(&mut self, incoming: &'a Incoming, problem: &Unusable) -> Planned {
        if self.blocked.blocks(incoming) {
            return Planned::Deferred(Vec::new());
        }
        let id = match problem {
            // It may have been applied, and only its acknowledgement lost.
            Unusable::GivenUp(_) | Unusable::Refused(_) => incoming.update_id(),
            // Its publisher may have used any id.
            Unusable::Unreadable(_) => None,
        };
        let repeated =
            id.and_then(|id| self.before(id).or_else(|| self.repetitions.get(&id).cloned()));
        if let Some(repeated) = repeated {
            return repeated;
        }
        let planned = self.park(incoming, &problem.to_string());
        self.repetitions.extend(id.map(|id| (id, planned.clone())));
        planned
    }

    fn update(&mut self, incoming: &'a Incoming, update: &'a UpdateMessage) -> Planned {
        if let Some(before) = self.before(update.id) {
            return before;
        }
        if self.blocked.blocks(incoming) {
            self.blocked.add(update);
            return Planned::Deferred(Vec::new());
        }
        if let Some(repetition) = self.repetitions.get(&update.id) {
            return repetition.clone();
        }
        let planned = if let Some(problem) = self.component_problem(update) {
            self.park(incoming, &problem)
        } else if let Some(planned) = self.key_in_use(update) {
            planned
        } else {
            self.decide(update)
        };
        self.repetitions.insert(update.id, planned.repeated(update.id));
        planned
    }

    /// What becomes of an update that an earlier batch applied or parked.
    fn before(&self, id: UpdateId) -> Option<Planned> {
        self.facts.known.get(&id).map(|verdict| Planned::settled_before(verdict.as_ref()))
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

    /// What becomes of an update whose idempotency key is in use; none for the first use.
    fn key_in_use(&mut self, update: &'a UpdateMessage) -> Option<Planned> {
        let key = update.idempotency.as_ref()?;
        let (fingerprint, source, original, repeated) =
            match (self.facts.keys.get(&key.key), self.keys.get(key.key.as_str())) {
                (Some(first), _) => {
                    let repeated = Planned::settled_before(first.verdict.as_ref());
                    (Some(&first.fingerprint), first.source.as_deref(), first.original, repeated)
                }
                (None, Some((first, repeated))) => {
                    let fingerprint = first.idempotency.as_ref().map(|first| &first.fingerprint);
                    (fingerprint, first.source(), first.id, repeated.clone())
                }
                (None, None) => return None,
            };
        if fingerprint == Some(&key.fingerprint) && is_same_source(source, update.source()) {
            self.record(update, InboxOutcome::Repeated, None, Some(original));
            Some(repeated)
        } else {
            Some(self.reject(update, Rejection::KeyOfAnotherBody, Some(original)))
        }
    }

    fn reject(
        &mut self,
        update: &'a UpdateMessage,
        reason: Rejection,
        original: Option<UpdateId>,
    ) -> Planned {
        self.record(update, InboxOutcome::Rejected(reason), None, original);
        Planned::Settled(Some(Verdict::Rejected { reason }))
    }

    /// Decides an update by the rules, unless another session has locked rows that the change depends on.
    fn decide(&mut self, update: &'a UpdateMessage) -> Planned {
        let UpdateMessage { id, component, text, idempotency, .. } = update;
        let (component, at) = (component.id, self.next_time());
        let (decision, report) = match decide_update(self.active, &self.reports, update, at) {
            Ok(UpdateDecision { decision, report }) => (decision, report),
            Err(reason) => return self.reject(update, reason, None),
        };
        let mut rests_on = LockableRow::of(&decision.rests_on(), component, self.read);
        let needs_component = report.is_some() || decision.is_change();
        if needs_component && self.facts.may_be_held.contains(&component) {
            rests_on.push(LockableRow::Component(component));
        }
        let held = self.locks.held_of(&rests_on);
        if !held.is_empty() {
            self.blocked.add(update);
            return Planned::Deferred(held);
        }
        self.plan.rests_on.extend(rests_on);
        if let Some((report, state)) = report {
            self.reports.carry_out(report, state);
        }
        let reason = decision.reason();
        let decided = Update { component, text, at };
        let incident = self.active.carry_out(&decision, decided, &mut self.plan.timeline);
        self.record(update, InboxOutcome::Decided(reason), incident, None);
        let incident = incident.map(|incident| snapshot(self.active, component, incident));
        let decided_at = incident.is_none().then_some(at);
        let planned = Planned::Settled(Some(Verdict::Decided { reason, incident, decided_at }));
        if let Some(Idempotency { key, .. }) = idempotency {
            self.keys.insert(key, (update, planned.repeated(*id)));
        }
        planned
    }

    /// When the next row of the inbox is decided.
    fn next_time(&self) -> Timestamp {
        self.facts.now.plus_micros(self.plan.rows.len() as i64)
    }

    /// Adds a row to the inbox.
    fn record(
        &mut self,
        update: &'a UpdateMessage,
        outcome: InboxOutcome,
        incident: Option<IncidentRef>,
        original: Option<UpdateId>,
    ) {
        let position = self.facts.position + 1 + self.plan.rows.len() as i64;
        let decided_at = self.next_time();
        self.plan.rows.push(PendingRow {
            update,
            position,
            decided_at,
            outcome,
            incident,
            original,
        });
    }
}

/// The incident that holds or covers a component, in its current state.
fn snapshot(
    active: &ActiveState,
    component: ComponentId,
    id: IncidentRef,
) -> IncidentSnapshot<IncidentRef> {
    if let Some(shown) = active.any_incident(id) {
        return IncidentSnapshot {
            id,
            text: shown.text.clone(),
            impact: shown.impact,
            start_date: shown.start_date,
            end_date: shown.end_date,
            last_update_at: shown.last_update_at,
        };
    }
    #[expect(clippy::expect_used, reason = "a decision names incidents of the state")]
    let shown = active.manual_incident(component, id).expect("an incident of the state");
    shown.clone().with_id(IncidentRef::Existing)
}

impl Plan<'_> {
    /// The result of each message, after the commit.
    pub(super) fn results(self, new_ids: &[IncidentId]) -> Vec<MessageResult> {
        self.planned.into_iter().map(|planned| planned.committed(new_ids)).collect()
    }
}

/// Whether two updates with the same fingerprint are of the same source. Fingerprints do not include a source that
/// the token named. An update without a report may be the same request, sent through an older gateway.
fn is_same_source(first: Option<&str>, other: Option<&str>) -> bool {
    first.is_none() || other.is_none() || first == other
}
