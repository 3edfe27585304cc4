//! What can't be applied is parked with its reason, and requeued by an operator.

pub(crate) mod reasons;
mod requeue;

use harness::tests_of;

tests_of!(reasons, requeue);
