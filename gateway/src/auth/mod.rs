//! Who may post: tokens, and how much each may send.

mod bearer;
pub mod issue;
pub(crate) mod rate_limit;

pub use self::bearer::Auth;
