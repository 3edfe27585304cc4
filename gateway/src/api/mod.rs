//! The endpoints, one file each.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod v1;
