//! What happened when: on the terminal, and in a file beside the logs.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use tokio::time::Instant;

/// The diary of a run.
pub(crate) struct Diary {
    begin: Instant,
    file: Mutex<File>,
}

impl Diary {
    /// Begins one.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self { begin: Instant::now(), file: Mutex::new(file) })
    }

    /// Notes what happens now.
    pub(crate) fn note(&self, what: impl AsRef<str>) {
        let line = format!("[{:7.2} s] {}", self.seconds(Instant::now()), what.as_ref());
        println!("{line}");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The terminal has it, should the disk be full.
        writeln!(file, "{line}").ok();
    }

    /// Seconds from the beginning.
    pub(crate) fn seconds(&self, instant: Instant) -> f64 {
        instant.saturating_duration_since(self.begin).as_secs_f64()
    }
}
