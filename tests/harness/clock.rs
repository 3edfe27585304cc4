//! A wall clock of a process's own, which a test sets.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// The clock of one process, off by as many seconds as its test says.
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock that is ahead by so many seconds, made in a folder of the test's own.
    ///
    /// It is compiled by `cc`, which Rust links with, so that nothing has to be installed for it.
    pub async fn ahead(folder: &Path, seconds: i64) -> Result<Self> {
        let (library, source) = (folder.join("clock.so"), folder.join("clock.c"));
        fs::write(&source, include_str!("clock.c"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
        let compiled = compiler.arg(&library).arg(&source).output().await;
        let compiled = compiled.context("`cc` can't be run: install gcc")?;
        ensure!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let clock = Self { library, offset: folder.join("clock-offset") };
        clock.set(seconds)?;
        Ok(clock)
    }

    /// Sets it, while its process runs: ahead by so many seconds.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Renamed, so that no reader finds half of it.
        let new = self.offset.with_extension("new");
        fs::write(&new, seconds.to_string())?;
        Ok(fs::rename(new, &self.offset)?)
    }

    /// The variables that give a process this clock.
    pub fn variables(&self) -> Result<[(&str, &str); 2]> {
        let text = |path| Path::to_str(path).context("a path that is not UTF-8");
        Ok([("LD_PRELOAD", text(&self.library)?), ("TEST_CLOCK", text(&self.offset)?)])
    }
}
