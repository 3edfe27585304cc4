//! Common to every process: shutdown on a signal or when a task fails, reports to the service manager, output.

pub mod output;
pub mod service_manager;
pub mod stop_signal;
pub mod supervise;
