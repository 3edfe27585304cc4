//! What both sides say about the monitored cloud: components, impacts, incidents, updates and their outcomes. Pure.

pub mod component;
pub mod impact;
pub mod incident;
pub mod outcome;
pub mod shorten;
pub mod timestamp;
pub mod update_id;
