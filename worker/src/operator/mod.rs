//! Changes of incidents and maintenances by an operator: those of the Python dashboard's pages, with its
//! status words, and one incident update for each change.

mod change;
mod component;
mod incident;
mod transaction;

pub(crate) use self::{
    change::{Closing, IncidentChange, New, change, close, comment, open, remove_component},
    component::{ComponentName, one},
    incident::{Incident, IncidentKind, IncidentUpdate, list, show},
};
