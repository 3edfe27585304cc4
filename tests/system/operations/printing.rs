//! Commands whose output nobody reads, as with `| head`, or that can't write it.

use std::{
    fs::{self, File},
    io::pipe,
    process::{Output, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};

use harness::{Fixture, System, tests};

tests!(
    commands_whose_output_is_not_read_do_their_work,
    a_program_whose_log_nobody_reads_goes_on,
    output_that_cannot_be_written_is_reported,
);

/// The end of a pipe that nobody reads.
fn unread() -> Result<Stdio> {
    let (reader, writer) = pipe()?;
    drop(reader);
    Ok(writer.into())
}

async fn run(
    system: &System,
    program: &str,
    arguments: &[&str],
    output: Stdio,
    errors: Stdio,
) -> Result<Output> {
    let binaries = &system.context.binaries;
    let path = if program == "gateway" { &binaries.gateway } else { &binaries.worker };
    let address = system.addresses.first().map(String::as_str).unwrap_or_default();
    let mut command = tokio::process::Command::new(path);
    command.args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command.envs(system.variables(&[("SDB_BIND", address)]));
    let child = command.stdout(output).stderr(errors).spawn()?;
    child.wait_with_output().await.context("it can't be waited for")
}

async fn commands_whose_output_is_not_read_do_their_work(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::bare(&fixture).await?;
    let file = system.context.folder.join("catalogue.yaml");
    fs::write(&file, "components: [{name: DNS}, {name: CDN}]")?;
    let file = file.to_str().context("the path is no text")?;
    for (program, arguments) in [
        ("worker", &["migrate"][..]),
        ("worker", &["migrate"]),
        ("worker", &["catalogue", "apply", file]),
        ("worker", &["catalogue", "apply", file, "--dry-run", "--json"]),
        ("worker", &["incident", "list"]),
        ("worker", &["incident", "open", "--title", "Slow", "--impact", "1", "--component", "DNS"]),
        ("worker", &["incident", "show", "1", "--json"]),
        ("worker", &["incident", "comment", "1", "--status", "fixing", "A disk"]),
        ("worker", &["incident", "change", "1", "--impact", "2"]),
        ("worker", &["incident", "change", "1", "--add-component", "CDN"]),
        ("worker", &["incident", "remove-component", "1", "CDN"]),
        ("worker", &["incident", "close", "1"]),
        ("worker", &["parked", "list"]),
        ("worker", &["topology", "show"]),
        ("worker", &["--help"]),
        ("worker", &["--version"]),
        ("gateway", &["token"]),
        ("gateway", &["--help"]),
    ] {
        let done = run(&system, program, arguments, unread()?, Stdio::piped()).await?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.code() == Some(0), "{arguments:?}: {:?} {said}", done.status);
        ensure!(said.is_empty(), "{arguments:?}: {said}");
    }
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    for (program, arguments, code) in [
        ("gateway", &["health", "--ready"][..], 0),
        ("worker", &["parked", "requeue", "--all"], 0),
        // A refusal that nobody hears is still one.
        ("worker", &["health"], 1),
        ("worker", &["incident", "close", "1"], 1),
        ("worker", &["incident", "show", "7"], 1),
        ("worker", &["catalogue", "apply", "nowhere.yaml"], 1),
        ("worker", &["incident", "open"], 2),
        ("gateway", &["token", "--days", "x"], 2),
    ] {
        let done = run(&system, program, arguments, unread()?, unread()?).await?;
        ensure!(done.status.code() == Some(code), "{arguments:?}: {:?}", done.status);
    }
    let closed = system.count(
        "SELECT count(*) FROM incident WHERE impact = 2 AND NOT system AND end_date IS NOT NULL",
    );
    ensure!(closed.await? == 1, "the incident was not closed");
    let updates = system.count("SELECT count(*) FROM incident_status").await?;
    ensure!(updates == 5, "{updates} updates");
    ensure!(system.count("SELECT count(*) FROM component").await? == 2);
    Ok(())
}

async fn a_program_whose_log_nobody_reads_goes_on(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    // A second worker that can say nothing takes half of the partitions.
    let mut command = tokio::process::Command::new(&system.context.binaries.worker);
    command.arg("run").env_clear().kill_on_drop(true).envs(system.variables(&[]));
    let mut silent = command.stdout(unread()?).stderr(unread()?).spawn()?;
    harness::eventually("two workers are alive", async || {
        Ok(system.count("SELECT count(*) FROM sdb_living_worker").await? == 2)
    })
    .await?;
    for impact in 1..=3 {
        let answer = system.post(&serde_json::json!({ "name": "DNS", "impact": impact })).await?;
        ensure!(answer.status == 201, "{answer:?}");
    }
    ensure!(silent.try_wait()?.is_none(), "it ended");
    silent.kill().await?;
    system.finish().await
}

async fn output_that_cannot_be_written_is_reported(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let full = File::options().write(true).open("/dev/full")?;
    let listed = run(&system, "worker", &["incident", "list"], full.into(), Stdio::piped()).await?;
    let said = String::from_utf8_lossy(&listed.stderr);
    ensure!(listed.status.code() == Some(1), "{:?}", listed.status);
    ensure!(said.starts_with("worker: standard output can't be written"), "{said}");
    Ok(())
}
