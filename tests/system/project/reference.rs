//! The generated reference of commands is that of the programs.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use tokio::task::spawn_blocking;

use harness::{
    Fixture,
    reference::{COMMANDS, WRITE, commands},
    tests,
};

tests!(the_reference_of_commands_is_what_the_programs_say, a_stale_reference_is_found,);

async fn the_reference_of_commands_is_what_the_programs_say(_: Arc<Fixture>) -> Result<()> {
    let expected = spawn_blocking(commands).await??;
    let sections = expected.lines().filter(|line| line.starts_with("##")).count();
    ensure!(sections > 30, "only {sections} commands were found: the check looks at nothing");
    let written = fs::read_to_string(deploy::checkout().join(COMMANDS)).context(COMMANDS)?;
    difference(&written, &expected)
}

/// Fails with the first line that is not as it must be.
fn difference(written: &str, expected: &str) -> Result<()> {
    let mut written = written.lines();
    for (number, expected) in (1..).zip(expected.lines()) {
        let line = written.next();
        ensure!(
            line == Some(expected),
            "{COMMANDS} is stale in line {number}, `{WRITE}` writes it anew: it has {line:?} for \
             {expected:?}"
        );
    }
    let more = written.next();
    ensure!(
        more.is_none(),
        "{COMMANDS} has more than the programs, `{WRITE}` writes it anew: {more:?}"
    );
    Ok(())
}

async fn a_stale_reference_is_found(_: Arc<Fixture>) -> Result<()> {
    let written = fs::read_to_string(deploy::checkout().join(COMMANDS)).context(COMMANDS)?;
    difference(&written, &written)?;
    let option = "--partitions";
    ensure!(written.contains(option), "there is no {option} to plant a difference into");
    for planted in [
        written.replace(option, "--queues"),
        written.lines().skip(1).collect::<Vec<_>>().join("\n"),
        format!("{written}\n### worker unknown\n"),
        String::new(),
    ] {
        let found = difference(&planted, &written);
        ensure!(found.is_err(), "a difference was not found");
    }
    Ok(())
}
