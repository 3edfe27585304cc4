//! The generated reference: what each program's `--help` says, and the table of settings.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use deploy::binaries;
use shared::settings::{SETTINGS, Setting};

/// How the pages are written anew.
pub const WRITE: &str = "cargo run -p tests --bin reference";

const COMMANDS: &str = "docs/reference/commands.md";
const SETTINGS_PAGE: &str = "docs/reference.md";
/// The table of settings is a part of its page, from its head to the next empty line.
const HEAD: &str = "| name | default | read by | meaning |\n|---|---|---|---|\n";

/// A page that is generated, or has a part that is.
pub struct Page {
    /// From the repository's root.
    pub path: &'static str,
    /// What must be in it.
    pub text: String,
}

/// The pages as they must be: those of the programs as they are now, which are built for them.
///
/// # Errors
/// When a program can't be built or run, or when the page of settings has no table.
pub fn pages() -> Result<[Page; 2]> {
    let settings = fs::read_to_string(deploy::checkout().join(SETTINGS_PAGE))?;
    Ok([
        Page { path: COMMANDS, text: commands()? },
        Page { path: SETTINGS_PAGE, text: with_settings(&settings)? },
    ])
}

/// The page with its table of settings written anew.
fn with_settings(page: &str) -> Result<String> {
    let (before, rest) = page.split_once(HEAD).with_context(|| format!("no table: {HEAD}"))?;
    let (_, after) = rest.split_once("\n\n").context("nothing follows the table of settings")?;
    let rows = SETTINGS.iter().map(row).collect::<Vec<_>>().join("\n");
    Ok(format!("{before}{HEAD}{rows}\n\n{after}"))
}

fn row(setting: &Setting) -> String {
    let Setting { name, default, reader, meaning, .. } = setting;
    let default = default.map_or("–".to_owned(), |default| format!("`{default}`"));
    format!("| `{name}` | {default} | {reader} | {meaning} |")
}

fn commands() -> Result<String> {
    let [gateway, worker, deploy] = binaries::build_programs(["gateway", "worker", "deploy"])?;
    let mut document = format!(
        "# Commands\n\nEach program's `--help`, with all of its commands. \
         This page is generated: `{WRITE}` writes it anew.\n"
    );
    for (program, name) in [(gateway, "gateway"), (worker, "worker"), (deploy, "cargo run --")] {
        add(&program, name, &[], &mut document)?;
    }
    Ok(document)
}

/// Adds a command, and after it those that are below it.
fn add(program: &Path, name: &str, words: &[&str], document: &mut String) -> Result<()> {
    let help = help(program, words)?;
    // A program's section is a step above those of its commands.
    let level = if words.is_empty() { "##" } else { "###" };
    let title = [&[name][..], words].concat().join(" ");
    document.push_str(&format!("\n{level} {title}\n\n```text\n{}\n```\n", help.trim_end()));
    for below in below(&help) {
        add(program, name, &[words, &[below]].concat(), document)?;
    }
    Ok(())
}

/// What a command says of itself, without variables of the caller's that would change it.
fn help(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).arg("--help").env_clear().output();
    let output = output.with_context(|| format!("{} can't be run", program.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {words:?} --help: {errors}", program.display());
    // Lines of descriptions may end with a space.
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
}

/// The commands that a help lists, but for `help`.
fn below(help: &str) -> Vec<&str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect()
}
