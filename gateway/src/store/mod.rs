//! What the gateway reads from the database. It never writes.

pub(crate) mod availability;
pub(crate) mod bars;
pub(crate) mod catalogue;
pub(crate) mod clock;
pub(crate) mod components;
pub(crate) mod event_counts;
pub(crate) mod events;
pub(crate) mod feeds;
pub(crate) mod incidents;
pub(crate) mod page_events;
pub(crate) mod pools;
pub(crate) mod receipts;
pub(crate) mod snapshot;
pub(crate) mod version;
