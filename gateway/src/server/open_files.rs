//! The system's limit of open files, and the number of connections that it permits.
//!
//! Each connection is an open file, and the gateway needs files for itself. If clients used all of them,
//! it could no longer reach its servers.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Limits;

/// Files for RabbitMQ's connections, the admin address with its connections, traces, the log, the runtime
/// and files that libraries open briefly, such as certificates.
const OWN: usize = 128;

/// The limit permits no connections of clients.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and the gateway needs {needed} for itself: set it to {wanted} \
    (`LimitNOFILE=` of systemd, `ulimits` of a container, `ulimit -n` of a shell)"
)]
pub struct FilesError {
    limit: usize,
    needed: usize,
    wanted: usize,
}

/// The maximum number of connections: that of the settings, or less if the limit of open files is too
/// low. The soft limit is raised as needed, up to the hard limit.
///
/// # Errors
/// When the limit permits none.
pub(crate) fn connections(limits: Limits) -> Result<usize, FilesError> {
    // Both pools, and connections outside of them.
    let needed = OWN + 2 * limits.database_connections as usize;
    let wanted = needed + limits.connections;
    let Some(limit) = raised(wanted) else { return Ok(limits.connections) };
    if limit >= wanted {
        return Ok(limits.connections);
    }
    let room = limit.saturating_sub(needed);
    if room == 0 {
        return Err(FilesError { limit, needed, wanted });
    }
    tracing::warn!(
        connections = room,
        limit,
        "the limit of open files allows fewer connections than SDB_MAX_CONNECTIONS: set it to {wanted} \
        (`LimitNOFILE=` of systemd, `ulimits` of a container, `ulimit -n` of a shell)"
    );
    Ok(room)
}

/// The limit after raising it to this number, as far as permitted; none if it is unknown.
fn raised(wanted: usize) -> Option<usize> {
    let wanted = wanted as u64;
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files can't be read");
            return None;
        }
    };
    let target = wanted.min(hard);
    if soft >= target {
        return usize::try_from(soft).ok();
    }
    match setrlimit(Resource::RLIMIT_NOFILE, target, hard) {
        Ok(()) => usize::try_from(target).ok(),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files can't be raised");
            usize::try_from(soft).ok()
        }
    }
}
