//! PostgreSQL and RabbitMQ as they are found: addresses, TLS, encodings, clocks, a standby.

mod clocks;
mod connections;
pub(crate) mod encodings;
mod standby;
mod tls;

use harness::tests_of;

tests_of!(clocks, connections, encodings, standby, tls);
