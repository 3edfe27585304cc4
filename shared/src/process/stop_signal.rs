//! Stopping on a signal.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::process::{service_manager, supervise};

/// A token that the first SIGTERM or SIGINT cancels; the second one ends the process with status 1. It is
/// also cancelled when an essential task fails ([`supervise`]).
///
/// # Errors
/// When the system does not let signals be handled.
pub fn token() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = supervise::stop();
    let stopping = stop.clone();
    supervise::keep("signals", async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stopping.is_cancelled() {
                tracing::warn!("ended at once by a second signal");
                std::process::exit(1);
            }
            tracing::info!("stopping: finishing what is under way");
            service_manager::stopping();
            stopping.cancel();
        }
    });
    Ok(stop)
}
