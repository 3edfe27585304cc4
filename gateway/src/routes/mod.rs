//! One file for each endpoint.

pub(crate) mod component_status;
pub(crate) mod docs;
pub(crate) mod health;
pub(crate) mod incidents;
pub(crate) mod metrics;
pub(crate) mod receipt;
pub(crate) mod update;
