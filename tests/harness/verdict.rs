//! One verdict on a run, for the tests of a burst, the simulation and the chaos run: what was sent and
//! answered, the inbox, the incidents with their timelines, what is parked, and what others wrote are
//! compared with what the model (`tests/model`) makes of the same updates.
//!
//! A journal ([`install`]), written by triggers in each writer's own transaction, says which
//! transaction made which change, and what it saw. Other writers take no lock of ours, so the place of
//! an edit between two batches is not recorded anywhere. But a batch notes what it sees when it writes
//! the inbox, after its decisions: what it does not see then came after it. And it sees all that was
//! committed before the batch before it wrote its own, or before a [`mark`] that was made before it
//! began. So each edit has one batch at most that it may stand before or after. A batch is right if
//! the model agrees for one such placement: in all that it decided, and in the state that results.

mod affected;
mod answers;
mod journal;
mod model_state;
mod replay;
mod run;
mod tables;

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use anyhow::{Result, ensure};
use model::delivery::Why;
use shared::domain::outcome::Reason;

pub use self::{
    journal::{begin, install, is_installed, mark, read},
    run::{
        Answered, Attempt, Expected, InboxRow, Mark, Message, ParkedChange, ParkedRow, Run,
        Snapshot, Transaction,
    },
    tables::{Change, IncidentRow, Row, StatusRow, Tables},
};

/// What can be wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An update that was taken is not there.
    Lost,
    /// An update took effect more than once, or one did that nobody sent.
    Doubled,
    /// Updates took effect in another order than they had to.
    OutOfOrder,
    /// A client or gateway was answered otherwise than the update was decided.
    AnsweredOtherwise,
    /// An update was decided otherwise than the model decides it.
    DecidedOtherwise,
    /// An incident, or what it affects, is not what the model makes of it.
    State,
    /// A timeline is not what the model makes of it.
    Timeline,
    /// What another writer committed is gone.
    ForeignEditUndone,
    /// An update is parked that need not be, or for another reason.
    ParkedUnasked,
    /// An update was applied, or left, that had to be parked.
    NotParked,
    /// When a component was affected is recorded otherwise than the journal tells it.
    Affected,
    /// A transaction that nobody made who may.
    Unexplained,
    /// The run had no update that could be compared.
    ComparedNothing,
    /// The run was to break something, and did not.
    BrokeNothing,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::OutOfOrder => "out of order",
            Self::AnsweredOtherwise => "answered otherwise than decided",
            Self::DecidedOtherwise => "decided otherwise than by the model",
            Self::State => "another state than the model's",
            Self::Timeline => "another timeline than the model's",
            Self::ForeignEditUndone => "an edit of others undone",
            Self::ParkedUnasked => "parked unasked",
            Self::NotParked => "not parked",
            Self::Affected => "affected otherwise than the journal tells",
            Self::Unexplained => "a transaction that is not explained",
            Self::ComparedNothing => "nothing was compared",
            Self::BrokeNothing => "nothing was broken",
        })
    }
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Of which kind.
    pub kind: Kind,
    /// What exactly.
    pub what: String,
}

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Updates that the model decided, too, by the rule.
    pub decided: BTreeMap<&'static str, usize>,
    /// Those that changed something.
    pub changes: usize,
    /// Updates whose idempotency key was used before.
    pub keys: usize,
    /// Updates that were parked, by the reason.
    pub parked: BTreeMap<Why, usize>,
    /// Transactions of other writers.
    pub foreign: usize,
    /// Those that a batch may have seen or not.
    pub beside: usize,
    /// Entries of timelines.
    pub entries: usize,
    /// Intervals in which components were affected.
    pub intervals: usize,
}

impl Compared {
    /// All updates that the model decided, too.
    #[must_use]
    pub fn updates(&self) -> usize {
        self.decided.values().sum()
    }

    /// Those by which a component recovered and left an incident.
    #[must_use]
    pub fn recoveries(&self) -> usize {
        let by = [Reason::RecoveredAmongOthers, Reason::RecoveredAsOnlyComponent];
        by.iter().filter_map(|reason| self.decided.get(reason.word())).sum()
    }

    /// Those that came too late: after the end of their alert, or an end after its alert began anew.
    #[must_use]
    pub fn late(&self) -> usize {
        let by = [Reason::BeganBeforeKnownEnd, Reason::EndedBeforeKnownStart];
        by.iter().filter_map(|reason| self.decided.get(reason.word())).sum()
    }

    /// Adds what another run had.
    pub fn add(&mut self, other: &Self) {
        for (reason, count) in &other.decided {
            *self.decided.entry(reason).or_default() += count;
        }
        for (why, count) in &other.parked {
            *self.parked.entry(*why).or_default() += count;
        }
        self.changes += other.changes;
        self.keys += other.keys;
        self.foreign += other.foreign;
        self.beside += other.beside;
        self.entries += other.entries;
        self.intervals += other.intervals;
    }

    pub(crate) fn decided(&mut self, reason: Reason) {
        *self.decided.entry(reason.word()).or_default() += 1;
        self.changes += usize::from(reason.outcome().is_change());
    }
}

/// What is to be said of a run.
#[derive(Clone, Debug, Default)]
pub struct RunVerdict {
    /// All that is wrong.
    pub violations: Vec<Violation>,
    /// What was compared.
    pub compared: Compared,
}

impl RunVerdict {
    fn add(&mut self, kind: Kind, what: impl Into<String>) {
        self.violations.push(Violation { kind, what: what.into() });
    }

    /// The violations of a kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.violations.iter().filter(move |v| v.kind == kind).map(|v| v.what.as_str())
    }

    /// An error that lists what is wrong, some of each kind.
    ///
    /// # Errors
    /// When something is wrong.
    pub fn into_result(self) -> Result<Compared> {
        const OF_EACH: usize = 5;
        let mut by_kind: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
        for violation in &self.violations {
            by_kind.entry(violation.kind).or_default().push(&violation.what);
        }
        let mut text = String::new();
        for (kind, all) in by_kind {
            for what in all.iter().take(OF_EACH) {
                // Writing to a string can't fail.
                write!(text, "\n{kind}: {what}").ok();
            }
            if all.len() > OF_EACH {
                write!(text, "\n{kind}: {} more", all.len() - OF_EACH).ok();
            }
        }
        ensure!(text.is_empty(), "the run is not as it must be:{text}");
        Ok(self.compared)
    }
}

/// Compares all there is.
#[must_use]
pub fn judge(run: &Run) -> RunVerdict {
    let mut verdict = RunVerdict::default();
    let decisions = replay::replay(run, &mut verdict);
    answers::compare(run, &decisions, &mut verdict);
    affected::compare(run, &mut verdict);
    if run.expected.compares && verdict.compared.updates() == 0 {
        verdict.add(Kind::ComparedNothing, "no update was decided");
    }
    if run.expected.broke == Some(0) {
        verdict.add(Kind::BrokeNothing, "all went well because nothing was broken");
    }
    verdict
}
