//! Workers: which partitions each has, the inbox, and the rows that they share with other writers.

mod foreign_edits;
mod held_rows;
mod inbox;
mod repartition;
mod rolling_restart;
pub(crate) mod spreading;
mod wire;

use harness::tests_of;

tests_of!(foreign_edits, held_rows, inbox, repartition, rolling_restart, spreading, wire);
