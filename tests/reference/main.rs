//! Writes the reference of commands anew: see [`harness::reference`].

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};
use harness::reference::{COMMANDS, commands};

fn main() -> ExitCode {
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reference: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write() -> Result<()> {
    let path = deploy::checkout().join(COMMANDS);
    fs::write(&path, commands()?).with_context(|| format!("{COMMANDS} can't be written"))?;
    println!("{COMMANDS} is written");
    Ok(())
}
