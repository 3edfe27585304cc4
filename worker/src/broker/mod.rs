//! RabbitMQ: sessions that consume, acknowledge and reply; the queues, their number and their policies;
//! the messages of operators' commands.

mod acknowledgements;
mod broken_queues;
mod consume_error;
mod consumer;
mod deliveries;
mod node_trial;
mod nodes;
pub(crate) mod policies;
mod publish;
mod redeclare;
pub(crate) mod repartition;
mod replies;
pub(crate) mod report_end;
pub(crate) mod requeue;
mod session;
mod start_deliveries;

pub(crate) use self::{broken_queues::BrokenQueues, consumer::Consumer, replies::ReplySender};
