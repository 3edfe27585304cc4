//! The system's limit of open files, and how many connections it leaves room for.
//!
//! Each connection is an open file, and so is what the gateway needs for itself. Where clients could take
//! all of them, it could not reach its servers any more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Limits;

/// Files for RabbitMQ's connections, the admin address with its connections, traces, the log, the runtime
/// and what libraries open for a moment, such as certificates.
const OWN: usize = 128;

/// The limit leaves no room for clients.
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

/// How many connections there may be at once: as many as the settings say, or as the limit has room for.
/// The soft limit is raised as far as that needs and the hard one allows.
///
/// # Errors
/// When there is no room for any.
pub(crate) fn connections(limits: Limits) -> Result<usize, FilesError> {
    // Both pools, and what is read beside them.
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

/// The limit after it was raised to so many files, as far as that may be; none when it is not known.
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
