//! API v2, which today's reporter and frontend use: one file for each endpoint, and their formats.

mod event;
mod event_query;
pub(crate) mod get_availability;
pub(crate) mod get_components;
pub(crate) mod get_event;
pub(crate) mod get_events;
mod markdown;
pub(crate) mod post_events;
mod posted_event;
