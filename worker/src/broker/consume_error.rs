//! Why a worker stops consuming, and whether its node of RabbitMQ is the cause.

use std::{error::Error, iter::successors};

use shared::amqp::{broker::ConnectError, topology::DeclareError};

use super::{broken_queues, deliveries::DeliveryError, node_trial::TrialError};
use crate::membership::MembershipError;

/// Why a worker stopped consuming.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsumeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("RabbitMQ refused")]
    Broker(#[from] lapin::Error),
    #[error("the queues can't be declared")]
    Declare(#[from] DeclareError),
    #[error("RabbitMQ did not answer in time")]
    Silent,
    #[error("this node of RabbitMQ can't be used")]
    Trial(#[from] TrialError),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error("a batch could not be applied in time")]
    Unsettled,
    #[error("stopped in the middle of a batch")]
    Abandoned,
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl ConsumeError {
    /// Whether a queue may be the cause: RabbitMQ ended the connection because of a fault of its own, or did not start
    /// a delivery.
    pub(super) fn is_of_a_queue(&self) -> bool {
        if matches!(self, Self::Delivery(DeliveryError::Silent)) {
            return true;
        }
        let causes = successors(Some(self as &(dyn Error + 'static)), |error| (*error).source());
        causes.filter_map(|error| error.downcast_ref()).any(broken_queues::is_internal)
    }

    /// Whether another node of RabbitMQ may serve the worker better.
    pub(super) const fn is_of_the_node(&self) -> bool {
        match self {
            Self::Broker(_)
            | Self::Silent
            | Self::Declare(DeclareError::Broker(_))
            | Self::Trial(
                TrialError::Broker(_)
                | TrialError::Undeclared
                | TrialError::Silent
                | TrialError::Declare(DeclareError::Broker(_)),
            )
            | Self::Delivery(_) => true,
            Self::Connect(_)
            | Self::Declare(_)
            | Self::Trial(TrialError::Declare(_))
            | Self::Unsettled
            | Self::Abandoned
            | Self::Membership(_) => false,
        }
    }
}
