//! All SQL of the worker, but for the operators' commands: what a batch reads, locks and writes, and the
//! records that workers share.

pub(crate) mod active_state;
pub(crate) mod command_lock;
pub(crate) mod facts;
pub(crate) mod inbox;
pub(crate) mod inbox_partitions;
pub(crate) mod incidents;
pub(crate) mod lock_holders;
pub(crate) mod parked;
pub(crate) mod row_locks;
pub(crate) mod scope_lock;
pub(crate) mod topology;
pub mod workers;
