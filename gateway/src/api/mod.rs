//! The endpoints, one file each, and the checks before a body with updates is read.

pub(crate) mod admission;
pub(crate) mod alertmanager;
pub(crate) mod feeds;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod statuspage;
pub(crate) mod v1;
pub(crate) mod v2;
