//! Decides an update as a whole: what becomes of its report, and so of the incidents of its component.

use shared::{
    domain::{
        condition::Condition,
        outcome::{Reason, Rejection},
        timestamp::Timestamp,
    },
    wire::message::UpdateMessage,
};

use super::{
    reports::{ReportChange, ReportId, ReportState, Reports},
    rules::{Decision, decide, recover, unchanged},
    state::{ActiveState, Update},
};

/// What an update does, before it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateDecision<'a> {
    /// The change of incidents.
    pub decision: Decision,
    /// The report that it writes.
    pub report: Option<(ReportId<'a>, ReportState)>,
}

/// Decides an update at this time.
///
/// # Errors
/// When it is rejected: it changes nothing and never will.
pub fn decide_update<'a>(
    state: &ActiveState,
    reports: &Reports<'a>,
    update: &'a UpdateMessage,
    at: Timestamp,
) -> Result<UpdateDecision<'a>, Rejection> {
    let posted = Update { component: update.component.id, text: &update.text, at };
    let id = ReportId::of(update);
    let written = match id.map(|id| reports.change(id, update, at)) {
        Some(ReportChange::Rejected(reason)) => return Err(reason),
        Some(ReportChange::Late(reason)) => {
            return Ok(UpdateDecision { decision: unchanged(state, posted, reason), report: None });
        }
        Some(ReportChange::Written(written)) => written,
        None => None,
    };
    let decision = match update.condition {
        Condition::Impact(impact) => decide(state, posted, impact),
        Condition::Ok => end(state, posted, id.map(|id| (id, reports))),
    };
    Ok(UpdateDecision { decision, report: id.zip(written) })
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
