//! How components and incidents are shown: words, times, texts, JSON. The answers of several endpoints share it.

pub(crate) mod catalogue;
pub(crate) mod event;
pub(crate) mod html;
pub(crate) mod incident_json;
pub(crate) mod level;
pub(crate) mod update_state;
