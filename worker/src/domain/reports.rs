//! Reports: what each source says of a component until it takes it back, as far as the updates of a batch
//! concern them. Which update ends, renews or begins one, and which comes too late.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{
    domain::{
        component::ComponentId,
        condition::Condition,
        outcome::{Reason, Rejection},
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::UpdateMessage,
};

/// The maximum number of live reports of a component.
pub const MAX_LIVE_REPORTS: usize = 1_000;

/// How long an end is remembered, in microseconds: for so long its sender may repeat it.
const END_COUNTS: i64 = 24 * 3_600 * 1_000_000;

/// How long an end keeps an alert from firing that began before it, in microseconds. A copy that is late by more
/// is harmless, because its sender sends the end, too. But an alert whose end was a mistake, such as that of an
/// Alertmanager without its Prometheus, goes on firing with its old start.
const END_HIDES_FIRING: i64 = 120 * 1_000_000;

/// How far a sender's clock may be ahead, in microseconds. A later time is not recorded: a start in the future
/// would outlast every end, and an end in the future every firing.
const AHEAD: i64 = 60 * 1_000_000;

/// Identifies a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId<'a> {
    /// The component.
    pub component: ComponentId,
    /// Who speaks; empty if unknown.
    pub source: &'a str,
    /// What of several matters of the component the source speaks about; empty if it has one.
    pub key: &'a str,
}

impl<'a> ReportId<'a> {
    /// The report of an update.
    #[must_use]
    pub fn of(update: &'a UpdateMessage) -> Option<Self> {
        let report = update.report.as_ref()?;
        Some(Self { component: update.component.id, source: &report.source, key: &report.key })
    }
}

/// What is kept of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportState {
    /// Whether it stands.
    pub is_live: bool,
    /// The time of its first update since it last ended.
    pub first_at: Timestamp,
    /// The time of its last update.
    pub last_at: Timestamp,
    /// The seconds for which its source says that it is valid.
    pub ttl: Option<i64>,
    /// Its last update.
    pub update: UpdateId,
    /// The newest start that the source gave.
    pub starts_at: Option<Timestamp>,
    /// When it last ended.
    pub ended_at: Option<Timestamp>,
    /// The newest end that the source gave.
    pub ends_at: Option<Timestamp>,
}

/// The reports before and in a batch.
#[derive(Clone, Debug, Default)]
pub struct Reports<'a> {
    /// Those that updates of the batch name.
    known: HashMap<ReportId<'a>, ReportState>,
    /// The number of live reports of a component, named or not, where it was counted.
    live: HashMap<ComponentId, usize>,
    /// Those that the batch changed.
    changed: BTreeSet<ReportId<'a>>,
}

/// What an update makes of its report, before [`Reports::carry_out`] does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportChange {
    /// It comes too late, and changes nothing.
    Late(Reason),
    /// It would be one report too many.
    Rejected(Rejection),
    /// The report is written like this, if there is anything to write.
    Written(Option<ReportState>),
}

impl<'a> Reports<'a> {
    /// The reports before a batch: those that its updates name, as far as they exist, and the number of live
    /// ones of each component for which it matters.
    #[must_use]
    pub fn new(
        known: HashMap<ReportId<'a>, ReportState>,
        live: HashMap<ComponentId, usize>,
    ) -> Self {
        Self { known, live, changed: BTreeSet::new() }
    }

    /// What an update at this time makes of its report.
    #[must_use]
    pub fn change(&self, id: ReportId<'a>, update: &UpdateMessage, at: Timestamp) -> ReportChange {
        let (ttl, starts_at, ends_at) = update
            .report
            .as_ref()
            .map_or_else(Default::default, |r| (r.ttl.map(i64::from), r.starts_at, r.ends_at));
        let is_believed = |time: &Timestamp| *time <= at.plus_micros(AHEAD);
        let (starts_at, ends_at) = (starts_at.filter(is_believed), ends_at.filter(is_believed));
        let before = self.known.get(&id).filter(|report| report.counts(at));
        let said = Said { update: update.id, ttl, at };
        match update.condition {
            Condition::Impact(_) => {
                let known_end = before.and_then(|report| report.hiding_end(at));
                if starts_at.is_some_and(|start| known_end.is_some_and(|end| start <= end)) {
                    return ReportChange::Late(Reason::BeganBeforeKnownEnd);
                }
                let is_live = before.is_some_and(|report| report.is_live);
                let live = self.live.get(&id.component);
                if !is_live && live.is_some_and(|count| *count >= MAX_LIVE_REPORTS) {
                    return ReportChange::Rejected(Rejection::TooManyReports);
                }
                ReportChange::Written(Some(said.renewed(before, starts_at)))
            }
            Condition::Ok => {
                let known_start = before.and_then(|report| report.starts_at);
                if ends_at.is_some_and(|end| known_start.is_some_and(|start| end < start)) {
                    return ReportChange::Late(Reason::EndedBeforeKnownStart);
                }
                ReportChange::Written(said.ended(before, ends_at))
            }
        }
    }

    /// Whether another report of the component stands.
    #[must_use]
    pub fn has_another(&self, id: ReportId<'a>) -> bool {
        let own = self.known.get(&id).is_some_and(|report| report.is_live);
        self.live.get(&id.component).is_some_and(|live| *live > usize::from(own))
    }

    /// Whether it is known that the report has ended, and that it was not begun anew.
    #[must_use]
    pub fn has_ended(&self, id: ReportId<'a>, at: Timestamp) -> bool {
        self.known.get(&id).is_some_and(|report| !report.is_live && report.counts(at))
    }

    /// Writes a report.
    pub fn carry_out(&mut self, id: ReportId<'a>, state: ReportState) {
        let before = self.known.insert(id, state).is_some_and(|report| report.is_live);
        if let Some(live) = self.live.get_mut(&id.component) {
            *live = (*live + usize::from(state.is_live)).saturating_sub(usize::from(before));
        }
        self.changed.insert(id);
    }

    /// The reports that the batch changed, in the order of their ids, as they are now.
    #[must_use]
    pub fn changed(&self) -> BTreeMap<ReportId<'a>, ReportState> {
        self.changed.iter().filter_map(|id| Some((*id, *self.known.get(id)?))).collect()
    }
}

impl ReportState {
    /// Whether it still matters: an ended one does until its end no longer counts.
    fn counts(&self, at: Timestamp) -> bool {
        self.is_live || self.has_recent_end(at)
    }

    fn has_recent_end(&self, at: Timestamp) -> bool {
        self.ended_within(END_COUNTS, at)
    }

    fn ended_within(&self, micros: i64, at: Timestamp) -> bool {
        self.ended_at.is_some_and(|ended| ended.plus_micros(micros) > at)
    }

    /// The end that its source gave, if it still counts.
    fn known_end(&self, at: Timestamp) -> Option<Timestamp> {
        self.ends_at.filter(|_| self.has_recent_end(at))
    }

    /// The end that its source gave, if a firing that began before it is still taken for a late copy.
    fn hiding_end(&self, at: Timestamp) -> Option<Timestamp> {
        self.ends_at.filter(|_| self.ended_within(END_HIDES_FIRING, at))
    }
}

/// What an update says of its report, beside its condition.
struct Said {
    update: UpdateId,
    ttl: Option<i64>,
    at: Timestamp,
}

impl Said {
    /// The report after an update that begins or renews it.
    fn renewed(&self, before: Option<&ReportState>, starts_at: Option<Timestamp>) -> ReportState {
        let live = before.filter(|report| report.is_live);
        let ended = before.filter(|report| report.has_recent_end(self.at));
        ReportState {
            is_live: true,
            first_at: live.map_or(self.at, |report| report.first_at),
            last_at: self.at,
            ttl: self.ttl,
            update: self.update,
            starts_at: before.and_then(|report| report.starts_at).max(starts_at),
            ended_at: ended.and_then(|report| report.ended_at),
            ends_at: ended.and_then(|report| report.ends_at),
        }
    }

    /// The report after an update that ends it; none if that changes nothing. One that did not exist is
    /// recorded with its end: its beginning may come later.
    fn ended(
        &self,
        before: Option<&ReportState>,
        ends_at: Option<Timestamp>,
    ) -> Option<ReportState> {
        let known_end = before.and_then(|report| report.known_end(self.at));
        let is_live = before.is_some_and(|report| report.is_live);
        if !is_live && ends_at <= known_end {
            return None;
        }
        Some(ReportState {
            is_live: false,
            first_at: before.map_or(self.at, |report| report.first_at),
            last_at: self.at,
            ttl: before.and_then(|report| report.ttl),
            update: self.update,
            starts_at: before.and_then(|report| report.starts_at),
            ended_at: Some(self.at),
            ends_at: known_end.max(ends_at),
        })
    }
}
