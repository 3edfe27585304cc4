//! Plans a batch: decides message by message, in order, what to write and answer. Pure.

use std::collections::{HashMap, HashSet};

use shared::{
    component::ComponentId,
    impact::Impact,
    incident::{IncidentId, IncidentSnapshot},
    message::{Idempotency, UpdateMessage, Verdict},
    outcome::{InboxOutcome, Reason, Rejection},
    timestamp::Timestamp,
    update_id::UpdateId,
};

use super::{
    deferred::Blocked,
    message::{Applied, Incoming, Unusable},
};
use crate::{
    domain::{ActiveState, IncidentRef, Reports, Ruling, Update, rule, timeline::TimelineEntry},
    store::{
        facts::Facts,
        inbox::PendingRow,
        parked::MessageToPark,
        reports::{ReportsRead, ReportsToWrite},
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
    pub(super) reports: ReportsToWrite<'a>,
    /// The rows that the changes depend on.
    pub(super) rests_on: HashSet<LockableRow>,
}

/// What becomes of one message: what [`Applied`] will say of it once the incidents that the batch opens have
/// their ids.
#[derive(Clone)]
enum Planned {
    /// A rule decides it.
    Decided { reason: Reason, at: Timestamp, shown: Option<DecidedIncident> },
    /// It repeats an update that the batch decides.
    Repeated { original: UpdateId, reason: Reason, incident: Option<IncidentRef> },
    /// It needs no decision: it was applied before, is rejected, or is parked. There is no verdict if a
    /// version with other rules applied it.
    Settled(Option<Verdict>),
    /// Another session has locked these rows, or an earlier update of the component is deferred.
    Deferred(Vec<LockableRow>),
}

impl Planned {
    /// What becomes of a repetition of this update.
    fn repeated(&self, update: UpdateId) -> Self {
        match self {
            Self::Decided { reason, shown, .. } => {
                let (reason, incident) = (*reason, shown.as_ref().map(|shown| shown.incident));
                Self::Repeated { original: update, reason, incident }
            }
            other @ (Self::Repeated { .. } | Self::Settled(_) | Self::Deferred(_)) => other.clone(),
        }
    }

    /// The same, after the commit, with the ids of the incidents that were opened.
    fn applied(self, new_ids: &[IncidentId]) -> Applied {
        Applied::Settled(match self {
            Self::Decided { reason, at, shown } => {
                let decided_at = shown.is_none().then_some(at);
                let incident = shown.map(|shown| shown.snapshot(new_ids));
                Some(Verdict::Decided { reason, incident, decided_at })
            }
            Self::Repeated { original, reason, incident } => {
                let incident = incident.map(|incident| incident.id(new_ids));
                Some(Verdict::Repeated { original, reason, incident })
            }
            Self::Settled(verdict) => verdict,
            Self::Deferred(held) => return Applied::Deferred(held),
        })
    }
}

/// The incident of an answer, which may have no id yet.
#[derive(Clone)]
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
        self.facts.known.get(&id).map(|verdict| Planned::Settled(verdict.clone()))
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
                    let repeated = Planned::Settled(first.verdict.clone());
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
        let (decision, report) = match rule(self.active, &self.reports, update, at) {
            Ruling::Decided { decision, report } => (decision, report),
            Ruling::Rejected(reason) => return self.reject(update, reason, None),
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
        let shown = incident.map(|incident| DecidedIncident::new(self.active, component, incident));
        let planned = Planned::Decided { reason, at, shown };
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

impl DecidedIncident {
    /// The incident that holds or covers a component, in its current state.
    fn new(active: &ActiveState, component: ComponentId, incident: IncidentRef) -> Self {
        if let Some(shown) = active.any_incident(incident) {
            return Self {
                incident,
                text: shown.text.clone(),
                impact: shown.impact,
                start_date: shown.start_date,
                end_date: shown.end_date,
                last_update_at: shown.last_update_at,
            };
        }
        #[expect(clippy::expect_used, reason = "a decision names incidents of the state")]
        let shown = active.manual_incident(component, incident).expect("an incident of the state");
        Self {
            incident,
            text: shown.text.clone(),
            impact: shown.impact,
            start_date: shown.start_date,
            end_date: shown.end_date,
            last_update_at: shown.last_update_at,
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
    /// What became of each message, after the commit.
    pub(super) fn results(self, new_ids: &[IncidentId]) -> Vec<Applied> {
        self.planned.into_iter().map(|planned| planned.applied(new_ids)).collect()
    }
}

/// Whether two updates with the same fingerprint are of the same source. Fingerprints do not include a source that
/// the token named. An update without a report may be the same request, sent through an older gateway.
fn is_same_source(first: Option<&str>, other: Option<&str>) -> bool {
    first.is_none() || other.is_none() || first == other
}
