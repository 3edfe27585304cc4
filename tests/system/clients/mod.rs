//! Connections of clients: how long they are kept, how they end, and what those of strangers may cost.

mod half_close;
mod keep_alive;
mod open_files;
mod shutdown;
mod strangers;

use harness::tests_of;

tests_of!(half_close, keep_alive, open_files, shutdown, strangers);
