//! Feeds of incidents, for feed readers.

pub(crate) mod get_rss;
mod rss;
