//! Common to every process: shutdown on a signal or when a task fails, and output.

pub mod output;
pub mod shutdown;
pub mod supervise;
