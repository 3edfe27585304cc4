//! API v1: one file for each endpoint, and the request and response formats that the endpoints of updates
//! share.

pub(crate) mod get_component_status;
pub(crate) mod get_incidents;
pub(crate) mod get_live;
pub(crate) mod get_update;
mod many_updates;
mod outcome_status;
pub(crate) mod post_component_status;
pub(crate) mod post_updates;
mod posted_update;
