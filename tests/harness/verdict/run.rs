//! What a run left behind, as data: what was sent and answered, and what the database has of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use model::{Standing, affected::Intervals, delivery::Content};
use shared::{
    domain::{
        component::ComponentId, condition::Condition, impact::Impact, incident::IncidentId,
        timestamp::Timestamp, update_id::UpdateId,
    },
    wire::message::{Idempotency, Report, UpdateResult},
};

use super::tables::{Change, Tables};

/// What is known of reports: by component, source and key.
pub(super) type Reports = BTreeMap<(ComponentId, String, String), Standing>;

/// Everything that a verdict is about.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The shared tables when the journal began.
    pub start: Tables,
    /// When components were affected, as recorded then.
    pub start_affected: Intervals,
    /// The newest place in the inbox then.
    pub start_position: i64,
    /// The transactions that changed something, in the order of their last changes.
    pub transactions: Vec<Transaction>,
    /// What was seen at some moments.
    pub marks: Vec<Mark>,
    /// The inbox, in the order of its places.
    pub inbox: Vec<InboxRow>,
    /// What is parked.
    pub parked: Vec<ParkedRow>,
    /// The shared tables at the end.
    pub end: Tables,
    /// When components were affected, as recorded at the end.
    pub affected: Intervals,
    /// The reports when the journal began.
    pub start_reports: Reports,
    /// The reports at the end.
    pub end_reports: Reports,
    /// What clients sent and were answered.
    pub attempts: Vec<Attempt>,
    /// What is known of the messages by other means than the inbox.
    pub messages: HashMap<UpdateId, Message>,
    /// What workers reported of each batch, in the order of the commits.
    pub results: Vec<UpdateResult>,
    /// Transactions whose commit was confirmed to an operator, and what they did.
    pub confirmed: Vec<(u64, String)>,
    /// What the run was for.
    pub expected: Expected,
}

/// What a run must have had to be worth anything, and what it may have had.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Updates must have been applied, and compared.
    pub compares: bool,
    /// How much was broken, in a run that breaks something.
    pub broke: Option<usize>,
    /// The applications that may write the shared tables beside the worker; all of them when there
    /// are none.
    pub operators: Vec<String>,
    /// Messages whose delivery is not known may have been given up by RabbitMQ or refused by the
    /// database.
    pub unknown_may_be_given_up: bool,
    /// The newest incident that was there before it was recorded when components are affected. What it affected
    /// until then is not known.
    pub unrecorded_until: Option<i32>,
}

/// A transaction that was committed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transaction {
    /// Its id.
    pub xid: u64,
    /// When it began, in microseconds since 1970, by the server's clock.
    pub began: i64,
    /// Who made it.
    pub application: String,
    /// The place of its last entry in the journal.
    pub seq: i64,
    /// What it changed in the shared tables.
    pub changes: Vec<Change>,
    /// The updates that it put into the inbox.
    pub decided: Vec<UpdateId>,
    /// The changes of what is parked.
    pub parked: Vec<ParkedChange>,
    /// What it saw when it wrote those.
    pub snapshot: Option<Snapshot>,
}

/// What became of a parked row: parked without `old`, taken away without `new`.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedChange {
    /// The row before.
    pub old: Option<ParkedRow>,
    /// The row after.
    pub new: Option<ParkedRow>,
}

/// A row of `sdb_parked`.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedRow {
    /// Its number.
    pub id: i64,
    /// Its update.
    pub update: Option<UpdateId>,
    /// Why.
    pub reason: String,
    /// When it was parked last.
    pub parked_at: String,
    /// Whether it was requeued.
    pub is_put_back: bool,
    /// The bytes of the message.
    pub payload: Vec<u8>,
}

/// Which transactions were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The first one that was not begun.
    pub xmax: u64,
    /// Those before it that were not committed.
    pub running: HashSet<u64>,
}

impl Snapshot {
    /// Reads PostgreSQL's `xmin:xmax:xid,xid…`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (_xmin, xmax) = (parts.next()?, parts.next()?.parse().ok()?);
        let running = parts.next().unwrap_or_default().split(',');
        let running = running.filter(|xid| !xid.is_empty()).map(|xid| xid.parse().ok());
        Some(Self { xmax, running: running.collect::<Option<_>>()? })
    }

    /// Whether a transaction that was committed at some time was seen.
    #[must_use]
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && !self.running.contains(&xid)
    }
}

/// What was seen at a moment, and so by all that began later.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The moment, in microseconds since 1970, by the server's clock.
    pub at: i64,
    /// What was seen.
    pub snapshot: Snapshot,
}

/// A row of the inbox.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct InboxRow {
    /// The update.
    pub id: UpdateId,
    /// Its component.
    pub component_id: ComponentId,
    /// Its impact; none for `ok`.
    pub impact: Option<i16>,
    /// Who speaks; none for an update without a report.
    pub source: Option<String>,
    /// The key of its report.
    pub key: Option<String>,
    /// How long the report is valid.
    pub ttl: Option<i64>,
    /// When what it reports began.
    pub starts_at: Option<Timestamp>,
    /// When it ended.
    pub ends_at: Option<Timestamp>,
    /// Its text.
    pub text: String,
    /// Its place.
    pub position: i64,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// What it did.
    pub outcome: String,
    /// Why.
    pub reason: String,
    /// The incident that holds or covers the component.
    pub incident_id: Option<IncidentId>,
    /// The update that it repeats.
    pub original: Option<UpdateId>,
}

impl InboxRow {
    /// What it says of its component, and whose report it is; none if it is no update.
    pub(super) fn said(&self) -> Option<(Condition, Option<Report>)> {
        let condition = match self.impact {
            Some(impact) => Impact::try_from(impact).ok()?.into(),
            None => Condition::Ok,
        };
        let report = self.source.as_ref().map(|source| Report {
            source: source.clone(),
            key: self.key.clone().unwrap_or_default(),
            ttl: self.ttl.and_then(|ttl| u32::try_from(ttl).ok()),
            starts_at: self.starts_at,
            ends_at: self.ends_at,
        });
        Some((condition, report))
    }
}

/// What is known of a message.
#[derive(Clone, Debug)]
pub struct Message {
    /// The forms in which it was delivered.
    pub delivered_as: Vec<Content>,
    /// Its idempotency key.
    pub idempotency: Option<Idempotency>,
}

/// An update as it was sent once, and its answer. Times are of one clock, whichever.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Names the update: what is sent again with its idempotency key has the same name. Where a row
    /// of the inbox has an id that no answer gave, its text is taken for the name.
    pub update: String,
    /// The component's id.
    pub component: ComponentId,
    /// What it said of its component, where it is known.
    pub condition: Option<Condition>,
    /// Its report, where it is known. Its `ttl` does not count: that of an alert depends on when it arrived.
    pub report: Option<Report>,
    /// Whether it is an alert: each time that it is sent it is an update of its own, whose id no answer has.
    pub is_alert: bool,
    /// When it was sent.
    pub sent: u64,
    /// When its answer was there.
    pub answered: u64,
    /// The answer.
    pub answer: Answered,
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answered {
    /// 200 or 201.
    Outcome {
        /// The update's id.
        id: UpdateId,
        /// Whether it was a 201.
        changed: bool,
        /// The incident; none for an `ok` of a component that no incident covers.
        incident: Option<i64>,
    },
    /// 202.
    Accepted(UpdateId),
    /// 200 to an alert: it is queued.
    Queued,
    /// 503: nothing was queued.
    Refused(Option<UpdateId>, String),
    /// 503, or no answer at all: it may have been queued or not.
    Unknown(Option<UpdateId>),
}

impl Answered {
    /// The update's id of a 2xx that has it.
    #[must_use]
    pub const fn taken(&self) -> Option<UpdateId> {
        match self {
            Self::Outcome { id, .. } | Self::Accepted(id) => Some(*id),
            Self::Queued | Self::Refused(..) | Self::Unknown(_) => None,
        }
    }

    /// Whether it is a 2xx.
    pub(super) const fn is_taken(&self) -> bool {
        matches!(self, Self::Queued) || self.taken().is_some()
    }

    /// The update's id, if the answer has one.
    pub(super) const fn id(&self) -> Option<UpdateId> {
        match self {
            Self::Outcome { id, .. } | Self::Accepted(id) => Some(*id),
            Self::Refused(id, _) | Self::Unknown(id) => *id,
            Self::Queued => None,
        }
    }
}
