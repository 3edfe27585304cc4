//! Which workers are alive, and which partitions each of them consumes.

mod heartbeat;
mod share;

pub(crate) use self::{
    heartbeat::{Member, MembershipError},
    share::Share,
};
