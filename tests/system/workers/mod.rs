//! Workers: which partitions each has, the inbox, and the rows that they share with other writers.

pub(crate) mod envelopes;
mod foreign_edits;
mod held_rows;
mod inbox;
mod repartition;
mod rolling_restart;
pub(crate) mod spreading;
mod wire;
mod wire_version;

use harness::tests_of;

tests_of!(
    envelopes,
    foreign_edits,
    held_rows,
    inbox,
    repartition,
    rolling_restart,
    spreading,
    wire,
    wire_version,
);
