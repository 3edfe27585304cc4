//! The documents say what is true: paths, commands, settings and tests that they name exist.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use shared::settings::SETTINGS;

use harness::{Fixture, tests};

tests!(
    every_path_in_the_documents_exists,
    every_command_in_the_documents_exists,
    every_test_in_the_architecture_exists,
    the_readme_lists_every_setting_with_its_default,
);

const DOCUMENTS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "RUNBOOK.md",
    "SECURITY.md",
];
const FOLDERS: [&str; 7] =
    [".ci/", "deploy/", "gateway/", "migrations/", "shared/", "tests/", "worker/"];

fn read(document: &str) -> Result<String> {
    let path = deploy::checkout().join(document);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// What stands between backticks on one line.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

async fn every_path_in_the_documents_exists(_: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    for document in DOCUMENTS {
        let text = read(document)?;
        for span in code_spans(&text) {
            let named =
                span.ends_with(".md") || FOLDERS.iter().any(|folder| span.starts_with(folder));
            if named && !span.contains([' ', '*', '<', '{']) {
                ensure!(deploy::checkout().join(span).exists(), "{document} names {span}");
                checked += 1;
            }
        }
    }
    ensure!(checked > 20, "only {checked} paths were found: the check looks at nothing");
    Ok(())
}

async fn every_command_in_the_documents_exists(fixture: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    for document in DOCUMENTS {
        let text = read(document)?;
        for command in code_spans(&text).chain(text.lines().map(str::trim)) {
            let mut words = command.split(' ');
            let program = match words.next() {
                Some("gateway") => &fixture.binaries.gateway,
                Some("worker") => &fixture.binaries.worker,
                _ => continue,
            };
            // Its name alone, or a sentence that begins with it.
            let named: Vec<&str> = words
                .take_while(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase()))
                .collect();
            if named.is_empty() || !command.contains(' ') || command.ends_with(['.', ':', ',']) {
                continue;
            }
            let arguments = [named.as_slice(), &["--help"]].concat();
            let (exists, said) = fixture.command(program, &arguments, &[]).await?;
            ensure!(exists, "{document} names `{command}`: {said}");
            checked += 1;
        }
    }
    ensure!(checked > 4, "only {checked} commands were found: the check looks at nothing");
    Ok(())
}

async fn every_test_in_the_architecture_exists(_: Arc<Fixture>) -> Result<()> {
    let mut sources = String::new();
    for folder in ["gateway/src", "worker/src", "shared/src", "deploy/src", "tests/system"] {
        collect(&deploy::checkout().join(folder), &mut sources)?;
    }
    let mut checked = 0;
    // Tests are named by sentences: words of snake case, more than three of them.
    for span in code_spans(&read("ARCHITECTURE.md")?) {
        let is_sentence = span.matches('_').count() > 2
            && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            // A constraint of ours and a setting of PostgreSQL's are none.
            && !span.starts_with("sdb_")
            && !span.ends_with("_timeout");
        if is_sentence {
            ensure!(sources.contains(&format!("fn {span}(")), "there is no test {span}");
            checked += 1;
        }
    }
    ensure!(checked >= 7, "only {checked} tests are named, for seven invariants");
    Ok(())
}

fn collect(folder: &Path, sources: &mut String) -> Result<()> {
    let entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    for path in entries {
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(path)?);
        }
    }
    Ok(())
}

async fn the_readme_lists_every_setting_with_its_default(_: Arc<Fixture>) -> Result<()> {
    let readme = read("README.md")?;
    let expected: Vec<String> = SETTINGS
        .iter()
        .map(|setting| {
            let default =
                setting.default.map_or("–".to_owned(), |default| format!("`{default}`"));
            format!("| `{}` | {default} | {} | {} |", setting.name, setting.reader, setting.meaning)
        })
        .collect();
    let listed: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `SDB_")).collect();
    ensure!(listed == expected, "the table of settings must be:\n{}", expected.join("\n"));
    Ok(())
}
