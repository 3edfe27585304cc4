//! RabbitMQ: sessions that consume, acknowledge and reply; the queues, their number and their policies;
//! the requeueing of parked updates.

mod acknowledgements;
mod consume_error;
mod deliveries;
pub(crate) mod policies;
mod redeclare;
pub(crate) mod repartition;
mod replies;
pub(crate) mod requeue;
mod session;
mod starting;
mod trial;

pub(crate) use self::{replies::ReplySender, session::Consumer};
