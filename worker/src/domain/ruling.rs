//! Decides an update as a whole: what becomes of its report, and so of the incidents of its component.

use shared::{
    condition::Condition,
    message::UpdateMessage,
    outcome::{Reason, Rejection},
    timestamp::Timestamp,
};

use super::{
    reports::{ReportChange, ReportId, ReportState, Reports},
    rules::{Decision, decide, recover, unchanged},
    state::{ActiveState, Update},
};

/// What an update does, before it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling<'a> {
    /// A rule decides it.
    Decided {
        /// The change of incidents.
        decision: Decision,
        /// The report that it writes.
        report: Option<(ReportId<'a>, ReportState)>,
    },
    /// It changes nothing and never will.
    Rejected(Rejection),
}

/// Decides an update at this time.
#[must_use]
pub fn rule<'a>(
    state: &ActiveState,
    reports: &Reports<'a>,
    update: &'a UpdateMessage,
    at: Timestamp,
) -> Ruling<'a> {
    let posted = Update { component: update.component.id, text: &update.text, at };
    let id = ReportId::of(update);
    let written = match id.map(|id| reports.change(id, update, at)) {
        Some(ReportChange::Rejected(reason)) => return Ruling::Rejected(reason),
        Some(ReportChange::Late(reason)) => {
            return Ruling::Decided { decision: unchanged(state, posted, reason), report: None };
        }
        Some(ReportChange::Written(written)) => written,
        None => None,
    };
    let decision = match update.condition {
        Condition::Impact(impact) => decide(state, posted, impact),
        Condition::Ok => end(state, posted, id.map(|id| (id, reports))),
    };
    Ruling::Decided { decision, report: id.zip(written) }
}

/// Decides an `ok` that does not come too late, given its report as it was before.
fn end(
    state: &ActiveState,
    posted: Update<'_>,
    report: Option<(ReportId<'_>, &Reports<'_>)>,
) -> Decision {
    let Some((id, reports)) = report else { return recover(state, posted) };
    if reports.has_another(id) {
        return unchanged(state, posted, Reason::AnotherReportStands);
    }
    let recovery = recover(state, posted);
    // The end is repeated, and the incident is about something else.
    if recovery.is_change() && reports.has_ended(id, posted.at) {
        return unchanged(state, posted, Reason::ReportHadEnded);
    }
    recovery
}
