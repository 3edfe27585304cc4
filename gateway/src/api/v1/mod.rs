//! API v1: one file for each endpoint, and the body of an update.

pub(crate) mod component_status;
pub(crate) mod incidents;
pub(crate) mod receipt;
mod status_update;
pub(crate) mod update;
