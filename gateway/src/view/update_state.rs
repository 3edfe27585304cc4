//! How far an update has come, as answers say it.

use serde::Serialize;
use utoipa::ToSchema;

/// How far an update has come: it is `pending`, so queued or possibly queued; `done`, so decided, and `outcome` says
/// how; `rejected`, because its idempotency key was used for another update or its component has 1,000 reports; or
/// `parked`, because it can't be applied as it is and an operator has to look at it.
// Derived from the table that holds the update (`store/receipts.rs`); only a `done` update has an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UpdateState {
    Pending,
    Done,
    Rejected,
    Parked,
}
