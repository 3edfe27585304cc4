//! The programs of an earlier commit of this repository.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use deploy::binaries::{self, Binaries};

/// The last commit whose programs know only version 1 of messages.
pub(crate) const DEFAULT: &str = "390a59270e31cb5f51b2b855eb8b89c80355cb35";

/// Builds them beside the newer ones, whose compiled dependencies they share.
pub(crate) fn build(commit: &str, newer: &Binaries) -> Result<Binaries> {
    let commit = resolve(commit)?;
    // The build's folder has one for each profile.
    let build = newer.gateway.ancestors().nth(2).context("the programs are in no folder")?;
    let own = build.join("versions").join(&commit);
    let checkout = own.join("checkout");
    if !checkout.exists() {
        // Renamed when they are complete.
        let unpacked = own.join("unpacked");
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked)?;
        }
        fs::create_dir_all(&unpacked)?;
        unpack(&commit, &unpacked)?;
        set_version(&commit, &unpacked)?;
        fs::rename(&unpacked, &checkout)?;
    }
    println!("Building the programs of commit {commit}");
    binaries::build_of(&checkout, build, &own)
}

/// The full name of a commit from which the present one descends.
fn resolve(commit: &str) -> Result<String> {
    let object = format!("{commit}^{{commit}}");
    let (found, name) = git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &object])?;
    if !found {
        let (_, shallow) = git(&["rev-parse", "--is-shallow-repository"])?;
        match shallow.as_str() {
            "true" => bail!(
                "this clone has only a part of the history, without commit {commit}: \
                `git fetch --unshallow` gets the rest"
            ),
            "false" => bail!("this repository has no commit {commit}"),
            _ => bail!("this is no clone of the repository: commit {commit} can't be built"),
        }
    }
    let (is_earlier, _) = git(&["merge-base", "--is-ancestor", &name, "HEAD"])?;
    ensure!(is_earlier, "commit {commit} is not in the history of the present one");
    Ok(name)
}

fn unpack(commit: &str, folder: &Path) -> Result<()> {
    let archive = folder.with_extension("tar");
    let path = archive.to_str().context("a path that is not UTF-8")?;
    let (done, _) = git(&["archive", "--format=tar", "--output", path, commit])?;
    ensure!(done, "`git archive {commit}` failed");
    let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder).status();
    ensure!(unpacked.context("tar can't be run")?.success(), "{path} can't be unpacked");
    Ok(fs::remove_file(archive)?)
}

/// Gives its packages a version of their own. Cargo knows a package of a workspace by its version and by
/// its path within the workspace: of two commits with one version, the second would get what was compiled
/// for the first.
fn set_version(commit: &str, checkout: &Path) -> Result<()> {
    let path = checkout.join("Cargo.toml");
    let manifest = fs::read_to_string(&path)?;
    let (before, package) =
        manifest.split_once("[workspace.package]\n").context("the workspace has no version")?;
    let (first, rest) = package.split_once("\"\n").context("the workspace has no version")?;
    ensure!(first.starts_with("version = \""), "the workspace's version is not its first line");
    let manifest = format!("{before}[workspace.package]\n{first}+{commit}\"\n{rest}");
    Ok(fs::write(path, manifest)?)
}

/// Whether git succeeded, and what it printed.
fn git(arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(deploy::checkout());
    let output = command.output().context("git can't be run")?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?.trim().to_owned()))
}
