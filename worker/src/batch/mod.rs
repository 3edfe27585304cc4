//! One batch is one transaction: its messages, the plan of its changes, the transaction itself, and the
//! handling of failures.

mod apply;
mod crowded;
mod deferred;
mod message;
mod plan;
mod retry;
mod standby;
mod unpack;

pub use self::{
    apply::{ApplyError, apply},
    message::{Applied, Incoming, Unusable},
    unpack::{Delivered, Part},
};
pub(crate) use self::{
    deferred::{Deferrable, DeferredQueue},
    retry::{Expired, apply_with_retries},
    standby::within,
};
