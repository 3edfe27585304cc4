//! Finds the load generator, and builds it where it is missing.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// The version whose output is read here.
const OHA: &str = "1.16.0";

/// oha, built by cargo into a folder beside this program's own: it is a tool of this benchmark, not
/// of the machine.
pub(crate) fn oha() -> Result<PathBuf> {
    let own = env::current_exe()?;
    // target/release/benchmark
    let target = own.ancestors().nth(2).context("this program is not in a target folder")?;
    let root = target.join("tools");
    let oha = root.join("bin/oha");
    if version(&oha).is_some_and(|version| version == OHA) {
        return Ok(oha);
    }
    eprintln!(
        "benchmark: building the load generator oha {OHA} into {}, once; it takes some minutes",
        root.display()
    );
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["install", "oha", "--version", OHA, "--locked", "--root"]).arg(&root);
    // Not in the checkout, whose settings are not oha's.
    command.current_dir(target).stdin(Stdio::null());
    let status = command.status().context("cargo can't be run")?;
    ensure!(status.success(), "oha can't be built, see above");
    Ok(oha)
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(said.split_ascii_whitespace().nth(1)?.to_owned())
}
