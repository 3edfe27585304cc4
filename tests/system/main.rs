//! Tests of the whole system: real processes on a real PostgreSQL and a real RabbitMQ, which this
//! program starts for itself. Each test has a database and a virtual host of its own.

mod administration;
mod answers;
mod burst;
        clocks::tests(),
