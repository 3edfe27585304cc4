//! The domain types of both programs: components, conditions, impacts, incidents, update ids, outcomes, timestamps. Pure.

pub mod component;
pub mod condition;
pub mod impact;
pub mod incident;
pub mod outcome;
pub mod shorten;
pub mod timestamp;
pub mod update_id;
