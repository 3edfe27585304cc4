//! Which server of several is used, as readiness shows it.

use serde::Serialize;

/// The servers of one kind that a program may use.
#[derive(Clone, Debug, Serialize)]
pub struct ServersReport {
    /// The server in use; none if none can be used.
    pub server: Option<String>,
    /// Others, each with the reason.
    pub not_used: Vec<ServerNotUsed>,
}

/// A server that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerNotUsed {
    /// Its host and port.
    pub server: String,
    /// Why it is not used.
    pub reason: String,
}
