//! PostgreSQL and RabbitMQ as they are found: addresses, TLS, encodings, clocks, standbys.

mod clocks;
mod commits;
mod connections;
pub(crate) mod encodings;
mod failover;
mod hosts;
mod standby;
mod tls;

use harness::tests_of;

tests_of!(clocks, commits, connections, encodings, failover, hosts, standby, tls);
