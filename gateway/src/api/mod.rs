//! The endpoints, one file each.

mod admission;
pub(crate) mod feeds;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod statuspage;
pub(crate) mod v1;
pub(crate) mod v2;
