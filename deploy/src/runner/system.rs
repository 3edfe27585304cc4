//! The programs with the settings that they share.

use std::{
    io::{self, Read},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use deploy::{
    binaries::Binaries,
    process::{self, describe, dying_with_us},
};
use nix::sys::signal::Signal;

use super::{POLL, Stop};

/// The programs, their settings, and whether the user has asked to stop.
pub(super) struct System<'a> {
    pub(super) programs: Binaries,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) stop: &'a Stop,
}

impl System<'_> {
    pub(super) fn worker(&self, arguments: &[&str]) -> Command {
        self.command(dying_with_us(&self.programs.worker, Signal::SIGTERM), arguments)
    }

    pub(super) fn gateway(&self, arguments: &[&str]) -> Command {
        self.command(dying_with_us(&self.programs.gateway, Signal::SIGTERM), arguments)
    }

    fn command(&self, mut command: Command, arguments: &[&str]) -> Command {
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        // Our own standard output is for what the user is to copy.
        command.args(arguments).envs(environment).stdin(Stdio::null()).stdout(io::stderr());
        command
    }

    /// Runs a command to its end and returns what it printed, if that is piped.
    pub(super) fn finish(&self, name: &str, mut command: Command, output: Stdio) -> Result<String> {
        command.stdout(output);
        let mut child = process::spawn(command).with_context(|| name.to_owned())?;
        let status = self.end_of(&mut child)?;
        if !status.success() {
            bail!("`{name}` ended with {}, see above", describe(status));
        }
        text(child.stdout.take())
    }

    /// Runs a command to its end without showing what it prints; the error is its messages.
    pub(super) fn probe(&self, mut command: Command) -> Result<Result<(), String>> {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = process::spawn(command).context("a program can't be run")?;
        let status = self.end_of(&mut child)?;
        let said = text(child.stderr.take())?;
        Ok(if status.success() { Ok(()) } else { Err(said.trim().to_owned()) })
    }

    fn end_of(&self, child: &mut Child) -> Result<ExitStatus> {
        let status = loop {
            if let Some(status) = process::wait(child, POLL)? {
                break status;
            }
            if self.stop.is_asked() {
                process::signal(child, Signal::SIGTERM);
                child.wait()?;
            }
        };
        self.stop.check()?;
        Ok(status)
    }
}

/// All of an output, if there is one.
fn text(output: Option<impl Read>) -> Result<String> {
    let mut text = String::new();
    if let Some(mut output) = output {
        output.read_to_string(&mut text)?;
    }
    Ok(text)
}
