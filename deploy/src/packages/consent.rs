//! Whether packages may be installed on this machine: no machine is changed without consent.

use std::{
    env,
    io::{self, BufRead, IsTerminal, Write},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Answers `yes` or `no` if nobody can be asked.
pub(super) const VARIABLE: &str = "STATUS_DASHBOARD_INSTALL_PACKAGES";
/// Pause between two checks whether the question was abandoned.
const POLL: Duration = Duration::from_millis(50);

/// Who decides whether missing packages are installed.
#[derive(Clone, Copy)]
pub enum Consent<'a> {
    /// They are installed.
    Given,
    /// They are not installed.
    Refused,
    /// The user at the terminal is asked. The question is abandoned once the function returns true.
    Ask(&'a dyn Fn() -> bool),
}

impl<'a> Consent<'a> {
    /// For a program that a user starts: the environment decides, or else the user at the terminal.
    /// Without a terminal nothing is installed.
    ///
    /// # Errors
    /// When the variable is neither `yes` nor `no`.
    pub fn of_person(abandoned: &'a dyn Fn() -> bool) -> Result<Self> {
        Ok(match said()? {
            Some(true) => Self::Given,
            Some(false) => Self::Refused,
            None if has_person() => Self::Ask(abandoned),
            None => Self::Refused,
        })
    }

    /// For tests and tools of development, which can't be given an option: the same, but without a
    /// terminal root installs, since that is how tests run in a container.
    ///
    /// # Errors
    /// When the variable is neither `yes` nor `no`.
    pub fn of_tests() -> Result<Self> {
        Ok(match said()? {
            Some(true) => Self::Given,
            Some(false) => Self::Refused,
            None if has_person() => Self::Ask(&|| false),
            None if nix::unistd::geteuid().is_root() => Self::Given,
            None => Self::Refused,
        })
    }

    pub(super) fn is_given(&self, question: &str) -> Result<bool> {
        match self {
            Self::Given => Ok(true),
            Self::Refused => Ok(false),
            Self::Ask(abandoned) => ask(question, abandoned),
        }
    }
}

/// Whether a user sees the question and can answer it.
fn has_person() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// What the environment says: the variable, or else that this is a CI system.
fn said() -> Result<Option<bool>> {
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    parse(variable(VARIABLE).as_deref(), variable("CI").as_deref())
}

fn parse(variable: Option<&str>, ci: Option<&str>) -> Result<Option<bool>> {
    match (variable.map(str::trim), ci.map(str::trim)) {
        (Some("yes"), _) => Ok(Some(true)),
        (Some("no"), _) => Ok(Some(false)),
        (None | Some(""), Some("true" | "1")) => Ok(Some(true)),
        (None | Some(""), _) => Ok(None),
        (Some(other), _) => bail!("{VARIABLE} is `{other}`, but must be `yes` or `no`"),
    }
}

/// Asks for y or n; anything but a yes is a no, and so is the end of the input.
fn ask(question: &str, abandoned: &dyn Fn() -> bool) -> Result<bool> {
    eprint!("deploy: {question}\ndeploy: Install them now? [y/N] ");
    let (sender, answer) = mpsc::channel();
    // A signal does not end the reading of a line, so another thread reads; it ends with the process.
    thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line).map(|_| line);
        // The answer to an abandoned question is discarded.
        drop(sender.send(read));
    });
    loop {
        match answer.recv_timeout(POLL) {
            Ok(line) => return Ok(is_yes(&line.context("the answer can't be read")?)),
            Err(RecvTimeoutError::Timeout) if abandoned() => {
                // The question has its own line.
                writeln!(io::stderr()).ok();
                bail!("stopped by a signal");
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_decides_before_the_ci_system() {
        assert_eq!(parse(Some("yes"), None).unwrap(), Some(true));
        assert_eq!(parse(Some("no"), Some("true")).unwrap(), Some(false));
        assert_eq!(parse(Some(""), Some("1")).unwrap(), Some(true));
        assert_eq!(parse(None, Some("true")).unwrap(), Some(true));
        assert_eq!(parse(None, Some("false")).unwrap(), None);
        assert_eq!(parse(None, None).unwrap(), None);
    }

    #[test]
    fn another_value_is_refused_with_the_expected_form() {
        let error = parse(Some("1"), None).unwrap_err().to_string();
        assert_eq!(error, format!("{VARIABLE} is `1`, but must be `yes` or `no`"));
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_yes("y\n") && is_yes(" YES\n"));
        assert!(!is_yes("\n") && !is_yes("") && !is_yes("n\n") && !is_yes("yeah\n"));
    }
}
