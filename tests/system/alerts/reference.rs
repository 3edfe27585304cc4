//! The examples of `docs/reference/alert-mapping.md` do what they say.

use std::{fs, process::Stdio, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use super::written;
use harness::{Fixture, tests};

tests!(the_examples_of_the_reference_are_true, a_fault_in_the_examples_is_found);

const DOCUMENT: &str = "docs/reference/alert-mapping.md";
/// The section whose file is the one that applies without a file.
const WITHOUT_FILE: &str = "Without a file";

/// What one block for the shell is run with, and what it must print, where the document says that.
#[derive(Debug)]
struct Example {
    section: String,
    mapping: String,
    script: String,
    prints: Option<String>,
}

/// The examples of a document. Each uses the mapping that stands last before it.
fn examples(document: &str) -> Result<Vec<Example>> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut section, mut mapping) = (String::new(), String::new());
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut section);
        }
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block: String = lines
            .by_ref()
            .take_while(|line| *line != "```")
            .map(|line| format!("{line}\n"))
            .collect();
        match kind {
            "yaml" => mapping = block,
            "sh" => {
                let (section, mapping) = (section.clone(), mapping.clone());
                examples.push(Example { section, mapping, script: block, prints: None });
            }
            "text" => examples.last_mut().context("it prints nothing")?.prints = Some(block),
            other => bail!("a block of {other}"),
        }
    }
    Ok(examples)
}

/// Runs an example with its mapping file, or with none.
async fn play(fixture: &Fixture, example: &Example, has_file: bool) -> Result<()> {
    let file = written(fixture, "example.yaml", &example.mapping)?;
    let programs = fixture.binaries.gateway.parent().context("no folder")?.display();
    let mut shell = Command::new("sh");
    shell
        .args(["-euc", &example.script])
        .env_clear()
        .env("PATH", format!("{programs}:/usr/bin:/bin"));
    if has_file {
        shell.env("SDB_ALERT_MAPPING", file);
    }
    let output = shell.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8([output.stdout, output.stderr].concat())?;
    ensure!(output.status.success(), "{}: {said}", example.script);
    let is_as_said = example.prints.as_ref().is_none_or(|prints| *prints == said);
    ensure!(is_as_said, "{}: it prints {said}", example.script);
    let commands = example.script.matches("gateway mapping test").count();
    let checked =
        example.script.matches("--expect").count() + usize::from(example.prints.is_some());
    ensure!(commands > 0 && commands == checked, "{}: nothing is expected", example.script);
    Ok(())
}

fn document() -> Result<String> {
    fs::read_to_string(deploy::checkout().join(DOCUMENT)).context(DOCUMENT)
}

async fn the_examples_of_the_reference_are_true(fixture: Arc<Fixture>) -> Result<()> {
    let examples = examples(&document()?)?;
    ensure!(examples.len() == 3, "{} examples were found", examples.len());
    for example in &examples {
        play(&fixture, example, true).await?;
        if example.section == WITHOUT_FILE {
            play(&fixture, example, false).await?;
        }
    }
    ensure!(examples.iter().any(|example| example.section == WITHOUT_FILE), "no {WITHOUT_FILE}");
    Ok(())
}

async fn a_fault_in_the_examples_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let document = document()?;
    for (part, instead) in [
        ("impact     major", "impact     minor"),
        ("    impact: major\n", ""),
        ("--expect 'DNS=minor'", "--expect 'DNS=major'"),
        ("--expect 'DNS=minor'", ""),
        ("  map: {P1: outage,", "  map: {P1: minor,"),
        (
            "    ignore: true\n  - match: ['alertname",
            "    component: {name: x}\n  - match: ['alertname",
        ),
    ] {
        ensure!(document.contains(part), "there is no {part} to plant a fault into");
        let mut found = false;
        for example in examples(&document.replace(part, instead))? {
            found |= play(&fixture, &example, true).await.is_err();
        }
        ensure!(found, "{instead:?} instead of {part:?} was not found");
    }
    Ok(())
}
