//! Everything with RabbitMQ: sessions that consume, acknowledge and reply; the queues, their number and
//! their policies; the requeueing of parked updates.

mod deliveries;
pub mod policies;
mod redeclare;
pub mod repartition;
mod replies;
pub mod requeue;
mod session;

pub(crate) use self::{replies::ReplySender, session::Consumer};
