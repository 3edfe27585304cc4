//! What a status update does: the five rules, the state on which they decide, and the texts of timelines. Pure:
//! no I/O and no clock; time is an argument.

mod effects;
mod incident_ref;
mod rules;
mod state;
pub mod timeline;

pub use self::{
    incident_ref::IncidentRef,
    rules::{Decision, RestsOn, decide},
    state::{ActiveState, ManualIncident, SystemIncident, Update},
};

#[cfg(test)]
mod tests;
