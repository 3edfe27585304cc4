//! One batch is one transaction: its messages, the plan of its changes, the transaction itself, and the
//! handling of failures.

mod apply;
mod crowded_components;
mod deferred;
mod message;
mod plan;
mod retry;
mod standby_wait;
mod unpack;

pub use self::{
    apply::{ApplyError, apply},
    message::{Incoming, MessageResult, Unusable},
    unpack::{Delivered, UnpackedUpdate},
};
pub(crate) use self::{
    deferred::{Deferrable, DeferredQueue},
    retry::{Expired, apply_with_retries},
    standby_wait::within,
};
