//! The domain types of both programs: components, impacts, incidents, update ids, outcomes, timestamps. Pure.

pub mod component;
pub mod impact;
pub mod incident;
pub mod outcome;
pub mod shorten;
pub mod timestamp;
pub mod update_id;
