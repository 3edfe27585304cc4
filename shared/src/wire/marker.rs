//! Messages that are no updates: that one is confirmed, or arrives, shows what a queue does. Workers acknowledge
//! them and do nothing else. Those of earlier releases, which read only version 1 and 2 of messages, may park them.

/// The type in the properties of a marker.
pub const TYPE: &str = "topology-marker";
