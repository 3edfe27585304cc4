//! How components and incidents are shown: words, times, texts. Pages, feeds and badges share it.

pub(crate) mod catalogue;
pub(crate) mod event;
pub(crate) mod html;
pub(crate) mod level;
