//! The documents say what is true: paths, commands, settings and tests that they name exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use shared::settings::{SETTINGS, file_variable};

use harness::{Fixture, tests};

tests!(
    every_path_in_the_documents_exists,
    every_command_in_the_documents_exists,
    every_test_in_the_architecture_exists,
    the_reference_names_the_secrets_that_may_be_in_files,
    every_log_line_in_the_documents_exists,
    the_sample_of_migrations_is_up_to_date,
    every_source_file_is_compiled,
    every_link_in_the_documents_leads_somewhere,
    the_alerts_page_begins_with_every_alert,
);

const FOLDERS: [&str; 7] =
    [".ci/", "deploy/", "gateway/", "migrations/", "shared/", "tests/", "worker/"];

/// All documents of the repository, by their paths from its root.
fn documents() -> Result<Vec<String>> {
    let (root, mut documents) = (deploy::checkout(), Vec::new());
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().context("no name")?.to_string_lossy();
            // What was built, and what is hidden.
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
            }
        }
    }
    ensure!(documents.len() > 20, "only {documents:?} were found: the check looks at nothing");
    documents.sort();
    Ok(documents)
}

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
    for document in documents()? {
        let text = read(&document)?;
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
    for document in documents()? {
        let text = read(&document)?;
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
    let mut files = Vec::new();
    for folder in ["gateway/src", "worker/src", "shared/src", "deploy/src", "tests/system"] {
        rust_files(&deploy::checkout().join(folder), &mut files)?;
    }
    let sources = files.iter().map(fs::read_to_string).collect::<Result<String, _>>()?;
    let mut checked = 0;
    // Tests are named by sentences: words of snake case, more than three of them.
    for span in code_spans(&read("docs/architecture.md")?) {
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

/// What sqlx says of a database that a later release has prepared.
const OF_SQLX: &str = "previously applied but is missing";

/// Lines of the log and reasons of `/readyz` that the pages for operators quote, so that one can search for
/// them.
async fn every_log_line_in_the_documents_exists(_: Arc<Fixture>) -> Result<()> {
    let mut files = Vec::new();
    for folder in ["gateway/src", "worker/src", "shared/src"] {
        rust_files(&deploy::checkout().join(folder), &mut files)?;
    }
    let sources = files.iter().map(fs::read_to_string).collect::<Result<String, _>>()?;
    // A text may be continued on the next line.
    let sources = sources.split("\\\n").map(str::trim_start).collect::<String>();
    let mut checked = 0;
    for document in
        ["docs/operations/alerts.md", "docs/operations/procedures.md", "docs/operations.md"]
    {
        let text = read(document)?;
        for line in code_spans(&text).filter(|span| is_sentence(span) && *span != OF_SQLX) {
            // What is before and what is after the colon may be parts of one text.
            for part in line.split(": ") {
                ensure!(
                    sources.contains(part),
                    "{document} quotes `{line}`, which no program says"
                );
            }
            checked += 1;
        }
    }
    ensure!(checked > 5, "only {checked} lines were found: the check looks at nothing");
    Ok(())
}

/// Whether a span has words as a line of the log has them; commands have other characters, or are known.
fn is_sentence(span: &str) -> bool {
    let commands = ["worker ", "gateway ", "sdb ", "docker ", "kubectl ", "systemctl "];
    span.matches(' ').count() > 2
        && span.chars().all(|c| c.is_alphabetic() || [' ', ':', '\'', ','].contains(&c))
        && !commands.iter().any(|command| span.starts_with(command))
}

/// The output of `cargo run` that the set-up shows.
async fn the_sample_of_migrations_is_up_to_date(_: Arc<Fixture>) -> Result<()> {
    let folder = fs::read_dir(deploy::checkout().join("migrations"))?;
    let names = folder.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<String>>>()?;
    let count = names.iter().filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).count();
    let line = format!("\nApplied {count} of {count} migrations.\n");
    ensure!(read("docs/setup.md")?.contains(&line), "docs/setup.md must show{line}");
    Ok(())
}

async fn the_reference_names_the_secrets_that_may_be_in_files(_: Arc<Fixture>) -> Result<()> {
    let reference = read("docs/reference.md")?;
    let named: BTreeSet<&str> = code_spans(&reference)
        .filter(|span| span.starts_with("SDB_") && span.ends_with("_FILE"))
        .collect();
    let secrets: Vec<String> = SETTINGS
        .iter()
        .filter(|setting| setting.is_secret)
        .map(|setting| file_variable(setting.name))
        .collect();
    let secrets: BTreeSet<&str> = secrets.iter().map(String::as_str).collect();
    ensure!(!secrets.is_empty() && named == secrets, "{named:?} are named, not {secrets:?}");
    Ok(())
}

/// A file that no `mod` names is no part of any program: tests in it would pass without being run.
async fn every_source_file_is_compiled(_: Arc<Fixture>) -> Result<()> {
    let mut files = Vec::new();
    for folder in ["gateway/src", "worker/src", "shared/src", "deploy/src", "tests"] {
        rust_files(&deploy::checkout().join(folder), &mut files)?;
    }
    let roots = ["main.rs", "lib.rs", "mod.rs"];
    let mut checked = 0;
    for file in &files {
        let name = file.file_stem().context("no name")?.to_string_lossy();
        if roots.contains(&format!("{name}.rs").as_str()) {
            continue;
        }
        let declaration = format!("mod {name};");
        let folder = file.parent().context("no folder")?;
        // The module that a folder belongs to stands in it, or beside it under its name.
        let parents = roots.map(|root| folder.join(root));
        let beside = folder.with_extension("rs");
        let mut declared = false;
        for parent in parents.iter().chain([&beside]).filter(|parent| parent.exists()) {
            declared |= fs::read_to_string(parent)?.contains(&declaration);
        }
        ensure!(declared, "{} is not compiled: no `{declaration}`", file.display());
        checked += 1;
    }
    ensure!(checked > 150, "only {checked} files were found: the check looks at nothing");
    Ok(())
}

async fn every_link_in_the_documents_leads_somewhere(_: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    for document in documents()? {
        let folder = deploy::checkout().join(&document);
        let folder = folder.parent().context("no folder")?;
        for link in read(&document)?.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (path, section) = link.split_once('#').unwrap_or((link, ""));
            let file = if path.is_empty() {
                deploy::checkout().join(&document)
            } else {
                folder.join(path)
            };
            ensure!(file.exists(), "{document} links to {link}");
            if !section.is_empty() {
                let sections = fs::read_to_string(&file)?;
                let mut sections = sections.lines().filter_map(section_name);
                ensure!(sections.any(|name| name == section), "{document} links to {link}");
            }
            checked += 1;
        }
    }
    ensure!(checked > 10, "only {checked} links were found: the check looks at nothing");
    Ok(())
}

async fn the_alerts_page_begins_with_every_alert(_: Arc<Fixture>) -> Result<()> {
    let rules = read("deploy/monitoring/alerts.yaml")?;
    let page = read("docs/operations/alerts.md")?;
    let table = page.split("\n## ").next().unwrap_or_default();
    let mut checked = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let value = |key: &str| {
            let (_, rest) = rule.split_once(key)?;
            rest.split(['\n', '}']).next().map(str::trim)
        };
        let name = rule.lines().next().unwrap_or_default();
        let severity = value("severity: ").context("no severity")?;
        let section =
            value("runbook: docs/operations/alerts.md#").context("no section of the page")?;
        let row = table.lines().find(|line| line.starts_with(&format!("| {name} | {severity} | ")));
        let leads_there = row.is_some_and(|row| row.ends_with(&format!("(#{section}) |")));
        ensure!(leads_there, "the page's table lacks {name}, {severity}, {section}");
        checked += 1;
    }
    ensure!(checked > 15, "only {checked} alerts were found: the check looks at nothing");
    Ok(())
}

/// The name by which links reach the section that a line begins.
fn section_name(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

/// Adds all Rust files of a folder, however deep.
pub(crate) fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
