//! Incidents and maintenances for feed readers, calendars and other pages.

pub(crate) mod get_atom;
pub(crate) mod get_badge;
pub(crate) mod get_calendar;
pub(crate) mod get_rss;
mod rss;
mod xml;
