//! Finds the load generators, and gets them where they are missing.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The version whose output is read here.
const OHA: &str = "1.16.0";

/// Debian's and Ubuntu's wrk.
pub(crate) fn wrk() -> Result<PathBuf> {
    let find = || {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|folder| folder.join("wrk")).find(|file| file.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let by_hand = "sudo apt-get update && sudo apt-get install -y wrk";
    if !nix::unistd::geteuid().is_root() {
        bail!("the load generator wrk is needed. Run this, then try again:\n\n    {by_hand}");
    }
    eprintln!("benchmark: the load generator wrk is missing; installing it with apt-get");
    for step in [&["update"][..], &["install", "-y", "--no-install-recommends", "wrk"]] {
        let mut command = Command::new("apt-get");
        command.arg("-q").args(step).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command).with_context(|| format!("by hand: {by_hand}"))?;
    }
    find().context("wrk is installed, but not in PATH")
}

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
    command.current_dir(target);
    run(&mut command)?;
    Ok(oha)
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(said.split_ascii_whitespace().nth(1)?.to_owned())
}

/// What it prints goes to where this program's progress goes.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.with_context(|| format!("{program} can't be run"))?;
    ensure!(status.success(), "{program} failed, see above");
    Ok(())
}
