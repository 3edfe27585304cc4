//! What every process does: it stops when told, and when a task fails; and it prints.

pub mod output;
pub mod shutdown;
pub mod supervise;
