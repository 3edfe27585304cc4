//! All SQL of the worker, except the DDL in `schema`: the statements of batches and of operators'
//! commands, and the records that workers share.

pub(crate) mod active_state;
pub(crate) mod affected;
pub(crate) mod catalogue;
pub(crate) mod command_locks;
pub(crate) mod covering;
pub(crate) mod facts;
pub(crate) mod idempotency_keys;
pub(crate) mod inbox;
pub(crate) mod inbox_partitions;
pub(crate) mod incident_details;
pub(crate) mod incident_row_locks;
pub(crate) mod incidents;
pub(crate) mod lock_holders;
pub(crate) mod operator_changes;
pub(crate) mod parked;
pub(crate) mod reports;
pub(crate) mod state_lock;
pub(crate) mod statistics;
pub(crate) mod topology;
pub mod workers;
