//! Builds the programs that make up the system.

use std::{
    env,
    ffi::OsString,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The built programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Accepts updates and answers queries.
    pub gateway: PathBuf,
    /// Applies updates; also `migrate` and `catalogue apply`.
    pub worker: PathBuf,
}

impl Binaries {
    /// The programs of a folder, built before.
    ///
    /// # Errors
    /// When one is not there.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let program = |name: &str| {
            let path = folder.join(name).canonicalize();
            path.with_context(|| format!("the program `{name}` in {}", folder.display()))
        };
        Ok(Self { gateway: program("gateway")?, worker: program("worker")? })
    }
}

/// Builds the gateway and the worker, optimized if this program is itself; cargo's messages go
/// to the terminal.
///
/// # Errors
/// When they don't build.
pub fn build() -> Result<Binaries> {
    let [gateway, worker] = build_programs(["gateway", "worker"])?;
    Ok(Binaries { gateway, worker })
}

/// Builds the gateway and the worker of another checkout in the same way, into a folder of its own. What
/// is compiled for them is kept in `build`, so that dependencies of the same version are compiled once.
///
/// # Errors
/// When they don't build.
pub fn build_of(checkout: &Path, build: &Path, target: &Path) -> Result<Binaries> {
    let folders = [("CARGO_BUILD_BUILD_DIR", build), ("CARGO_TARGET_DIR", target)];
    let [gateway, worker] = build_in(checkout, &folders, ["gateway", "worker"])?;
    Ok(Binaries { gateway, worker })
}

/// Builds programs of this workspace, in the same way.
///
/// # Errors
/// When they don't build.
pub fn build_programs<const COUNT: usize>(names: [&str; COUNT]) -> Result<[PathBuf; COUNT]> {
    build_in(crate::checkout(), &[], names)
}

fn build_in<const COUNT: usize>(
    checkout: &Path,
    folders: &[(&str, &Path)],
    names: [&str; COUNT],
) -> Result<[PathBuf; COUNT]> {
    // Cargo names itself to what it runs, so that the same toolchain builds the rest.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        // All packages, so that their dependencies have the features that the tests build them with.
        .args(["build", "--workspace"])
        .args(names.iter().flat_map(|name| ["--bin", name]))
        .arg("--message-format=json-render-diagnostics")
        .current_dir(checkout)
        .envs(folders.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // Variables that cargo sets for this program would make it rebuild dependencies.
    for (name, _) in env::vars_os() {
        let package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if name.to_str().is_some_and(|name| package.iter().any(|own| name.starts_with(own))) {
            command.env_remove(name);
        }
    }
    let mut cargo = command.spawn().context("cargo can't be run")?;
    let output = cargo.stdout.take().context("cargo's output is not there")?;
    let mut found = names.map(|_| PathBuf::new());
    for line in BufReader::new(output).lines() {
        let Some((name, path)) = executable(&line.context("cargo's output can't be read")?) else {
            continue;
        };
        if let Some(slot) = names.iter().position(|each| *each == name) {
            found[slot] = path;
        }
    }
    let status = cargo.wait()?;
    if !status.success() {
        bail!("`cargo build` of {} failed, see above", names.join(" and "));
    }
    match found.iter().position(|path| path.as_os_str().is_empty()) {
        Some(missing) => bail!("`{}` is no program that cargo built", names[missing]),
        None => Ok(found),
    }
}

/// Name and path, when a message of cargo's says that a program is there.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let name = message.pointer("/target/name")?.as_str()?;
    let path = message.get("executable")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_with_an_executable_count() {
        let program = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"worker"},"executable":"/t/worker"}"#;
        assert_eq!(executable(program), Some(("worker".to_owned(), PathBuf::from("/t/worker"))));
        let library = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"worker"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("not JSON"), None);
    }
}
