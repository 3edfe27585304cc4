//! One batch is one transaction: its messages, the plan of what they lead to, the transaction itself, and
//! what is done when it fails.

mod apply;
mod deferred;
mod message;
mod plan;
mod retry;
mod unpack;

pub use self::{
    apply::{ApplyError, apply},
    message::{Applied, Incoming, Unusable},
    unpack::{Delivered, Part},
};
pub(crate) use self::{
    deferred::{Deferrable, DeferredQueue},
    retry::{Expired, apply_with_retries},
};
