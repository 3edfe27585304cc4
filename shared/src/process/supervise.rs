//! Essential background tasks.
//!
//! Nothing waits for such a task, so its end would not be noticed: the process would look healthy and do
//! only a part of its work. When one panics, or ends unexpectedly, the process stops as on a signal and
//! exits with an error, so that its supervisor (systemd, Kubernetes) restarts it. Tasks that serve one
//! request or one connection are different: a panic ends only those.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, LazyLock, OnceLock},
};

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// An essential background task ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a background task ended unexpectedly: {0}")]
pub struct TaskEnded(&'static str);

/// Watches over tasks, and stops the process when one fails.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    stop: CancellationToken,
    /// The first task that failed.
    failed: Arc<OnceLock<TaskEnded>>,
}

static PROCESS: LazyLock<Supervisor> = LazyLock::new(Supervisor::default);

impl Supervisor {
    /// Cancelled when the process is to stop.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task that may end by itself, but must not panic.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let supervisor = self.clone();
        tokio::spawn(async move {
            // Shared state is behind locks and channels that remain valid after a panic.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                supervisor.fail(name);
            }
        })
    }

    /// Starts a task that must run until the process stops, or until it is aborted.
    pub fn keep(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let supervisor = self.clone();
        tokio::spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            if ended.is_err() || !supervisor.stop.is_cancelled() {
                supervisor.fail(name);
            }
        })
    }

    fn fail(&self, name: &'static str) {
        tracing::error!(task = name, "a background task ended unexpectedly: stopping");
        // Only the first one counts: others may end because of it.
        self.failed.get_or_init(|| TaskEnded(name));
        self.stop.cancel();
    }

    /// How the process is to end.
    ///
    /// # Errors
    /// When a task has failed.
    pub fn outcome(&self) -> Result<(), TaskEnded> {
        self.failed.get().map_or(Ok(()), |failed| Err(failed.clone()))
    }
}

/// Cancelled when the process is to stop.
pub(crate) fn stop() -> CancellationToken {
    PROCESS.stop()
}

/// Starts a task of the process that may end by itself, but must not panic.
pub fn spawn(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    PROCESS.spawn(name, task)
}

/// Starts a task that must run until the process stops, or until it is aborted.
pub fn keep(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    PROCESS.keep(name, task)
}

/// How the process is to end.
///
/// # Errors
/// When a task has failed.
pub fn outcome() -> Result<(), TaskEnded> {
    PROCESS.outcome()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_panic_stops_the_process_with_an_error() {
        for start in [Supervisor::spawn, Supervisor::keep] {
            let supervisor = Supervisor::default();
            let task = async { panic!("provoked by a test") };
            start(&supervisor, "reader", Box::pin(task)).await.unwrap();
            supervisor.stop().cancelled().await;
            assert_eq!(supervisor.outcome(), Err(TaskEnded("reader")));
        }
    }

    #[tokio::test]
    async fn a_task_that_is_kept_must_not_end_before_the_process_stops() {
        let supervisor = Supervisor::default();
        supervisor.spawn("may end", ready(())).await.unwrap();
        assert!(!supervisor.stop().is_cancelled());

        let stopping = Supervisor::default();
        stopping.stop().cancel();
        stopping.keep("ends at a stop", ready(())).await.unwrap();
        assert_eq!(stopping.outcome(), Ok(()));

        supervisor.keep("must not", ready(())).await.unwrap();
        assert!(supervisor.stop().is_cancelled());
        assert_eq!(supervisor.outcome(), Err(TaskEnded("must not")));
    }

    #[tokio::test]
    async fn a_task_that_is_aborted_has_not_failed() {
        let supervisor = Supervisor::default();
        for start in [Supervisor::spawn, Supervisor::keep] {
            let task = start(&supervisor, "aborted", pending());
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert_eq!(supervisor.outcome(), Ok(()));
        assert!(!supervisor.stop().is_cancelled());
    }

    /// Set in the process that the test below starts: this test again, as a program would be.
    const CHILD: &str = "SUPERVISED_CHILD";

    #[test]
    fn a_program_whose_task_panics_logs_it_and_exits_with_an_error() {
        if std::env::var_os(CHILD).is_some() {
            program();
        }
        let this = std::thread::current();
        let name = this.name().expect("a test has its name");
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let log = String::from_utf8(child.stderr).unwrap();
        assert_eq!(child.status.code(), Some(7), "{log}");
        for said in ["a task panicked", "provoked by a test", "supervise.rs", "task=\"reader\""] {
            assert!(log.contains(said), "{said} is not in the log: {log}");
        }
    }

    /// Does what a program's `main` does, with a task that panics, and exits with 7.
    fn program() -> ! {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let outcome = runtime.block_on(async {
            crate::telemetry::init(&crate::settings::Settings::new([])).unwrap();
            let stop = crate::process::stop_signal::token().unwrap();
            spawn("reader", async { panic!("provoked by a test") });
            stop.cancelled().await;
            super::outcome()
        });
        assert_eq!(outcome, Err(TaskEnded("reader")));
        std::process::exit(7)
    }

    #[tokio::test]
    async fn the_first_failure_is_the_reason() {
        let supervisor = Supervisor::default();
        supervisor.keep("first", ready(())).await.unwrap();
        supervisor.spawn("second", async { panic!("provoked by a test") }).await.unwrap();
        assert_eq!(supervisor.outcome(), Err(TaskEnded("first")));
    }
}
