//! What a status update does: the five rules and recovery, the state on which they decide, and the texts of
//! timelines. Pure: no I/O and no clock; time is an argument.

mod effects;
mod incident_ref;
mod reports;
mod rules;
mod state;
pub mod timeline;
mod update_decision;

pub use self::{
    incident_ref::IncidentRef,
    reports::{MAX_LIVE_REPORTS, ReportId, ReportState, Reports},
    rules::{Decision, RestsOn, decide},
    state::{ActiveState, ManualIncident, SystemIncident, Update},
    update_decision::{UpdateDecision, decide_update},
};

#[cfg(test)]
mod tests;
