//! What an operator changes of incidents and maintenances: what the Python dashboard's pages do, with
//! its status words, and one incident update for each change.

mod change;
mod component;
mod incident;
mod transaction;

pub(crate) use self::{
    change::{Closing, IncidentChange, New, change, close, comment, open, remove_component},
    component::ComponentName,
    incident::{Incident, IncidentKind, IncidentUpdate, list, show},
};
