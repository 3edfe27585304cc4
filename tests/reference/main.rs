//! Writes the generated reference anew: see [`harness::reference`].

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};
use harness::reference::{Page, pages};

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
    for Page { path, text } in pages()? {
        fs::write(deploy::checkout().join(path), text)
            .with_context(|| format!("{path} can't be written"))?;
        println!("{path} is written");
    }
    Ok(())
}
