//! Locks: on the scope, on rows that others may change, and of operators' commands; and who holds a lock.

pub(crate) mod commands;
pub(crate) mod holders;
pub(crate) mod rows;
pub(crate) mod scope;
