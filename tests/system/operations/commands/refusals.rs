//! What commands refuse, and how they explain themselves.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{contents, minutes_from_now, opened, post, with_components};
use harness::{Fixture, tests};

tests!(what_makes_no_sense_is_refused_and_changes_nothing, every_command_explains_itself,);

async fn what_makes_no_sense_is_refused_and_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?["id"].to_string();
    let closed = post(&system, "DNS", 3, 201).await?["id"].to_string();
    system.worker_succeeds(&["incident", "close", &closed]).await?;
    let (past, sooner) =
        (minutes_from_now(&system, -60).await?, minutes_from_now(&system, 60).await?);
    let later = minutes_from_now(&system, 90).await?;
    let schedule = |start: &str, end: &str| -> Vec<String> {
        ["maintenance", "schedule", "--title", "Racks", "--component", "CDN"]
            .iter()
            .chain(&["--start", start, "--end", end])
            .map(ToString::to_string)
            .collect()
    };
    let maintenance = schedule(&sooner, &later);
    let maintenance: Vec<&str> = maintenance.iter().map(String::as_str).collect();
    let maintenance = opened(&system, &maintenance).await?;
    // As the Python dashboard's pages can make them: one that begins later, and an impact that nobody
    // knows.
    for (id, start, impact) in [(80, sooner.as_str(), 1), (81, past.as_str(), 9)] {
        let insert = format!(
            "INSERT INTO incident (id, text, start_date, impact, system)
                VALUES ({id}, 'Of a page', '{start}', {impact}, false);
            INSERT INTO incident_component_relation VALUES ({id}, 1)"
        );
        system.sql(&insert).await?;
    }
    let listed = system.worker_succeeds(&["incident", "list"]).await?;
    ensure!(listed.contains("CDN 1") && listed.contains("Racks"), "{listed}");
    let before = contents(&system).await?;

    let open = |more: &[&str]| -> Vec<String> {
        ["incident", "open", "--title", "T"].iter().chain(more).map(ToString::to_string).collect()
    };
    let of = |parts: &[&str]| -> Vec<String> { parts.iter().map(ToString::to_string).collect() };
    for (arguments, says) in [
        (open(&["--impact", "0", "--component", "1"]), "0 is a maintenance"),
        (open(&["--impact", "4", "--component", "1"]), "write 1 (minor), 2 (major) or 3 (outage)"),
        (open(&["--impact", "1"]), "--component"),
        (open(&["--impact", "1", "--component", "99"]), "there is no component 99"),
        (open(&["--impact", "1", "--component", "Mail"]), "there is no component Mail"),
        (
            open(&["--impact", "1", "--component", "DNS (region=R3)"]),
            "there is no component DNS with these attributes",
        ),
        (
            open(&["--impact", "1", "--component", "DNS"]),
            "several components are DNS, take an id: 1 is DNS (R1, dns); 2 is DNS (R2, dns)",
        ),
        (
            open(&["--impact", "1", "--component", "1", "--start", &sooner]),
            "an incident can't begin in the future",
        ),
        (
            open(&["--impact", "1", "--component", "1", "--start", "noon"]),
            "write UTC as `YYYY-MM-DD HH:MM`, or RFC 3339",
        ),
        (
            of(&["incident", "open", "--title", " ", "--impact", "1", "--component", "1"]),
            "it is empty",
        ),
        (of(&["incident", "show", "99"]), "there is no incident 99: `worker incident list`"),
        (
            of(&["incident", "comment", &incident, "--status", "resolved", "Done"]),
            "write `analyzing` or `fixing` or `observing`",
        ),
        (
            of(&["incident", "comment", &maintenance, "--status", "fixing", "Done"]),
            "write `scheduled` or `in progress`",
        ),
        (of(&["incident", "comment", &closed, "--status", "fixing", "x"]), "was closed at"),
        (of(&["incident", "change", &incident]), "--title"),
        (of(&["incident", "change", &incident, "--title", "CDN 1"]), "has this title already"),
        (of(&["incident", "change", &incident, "--impact", "1"]), "is minor already"),
        (
            of(&["incident", "change", &incident, "--title", "New", "--add-component", "3"]),
            "CDN () is in incident 1 already",
        ),
        (
            of(&["incident", "change", "80", "--add-component", "3"]),
            "incident 80 is not active at this moment, so that it can't take components over",
        ),
        (of(&["incident", "change", &closed, "--title", "New"]), "was closed at"),
        (
            of(&["incident", "change", &maintenance, "--title", "New"]),
            "is no incident: see `worker maintenance`",
        ),
        (of(&["incident", "close", &closed]), "incident 2 was closed at"),
        (of(&["incident", "close", &maintenance]), "is no incident: see `worker maintenance`"),
        (of(&["incident", "close", &incident, "--at", &past]), "it begins at"),
        (of(&["incident", "close", &incident, "--at", &sooner]), "can't end in the future"),
        (of(&["incident", "remove-component", &incident, "1"]), "is not in incident 1"),
        (
            of(&["incident", "remove-component", &incident, "CDN"]),
            "CDN () is the only component of incident 1: `worker incident close` closes it",
        ),
        (of(&["incident", "remove-component", &closed, "1"]), "was closed at"),
        (schedule(&later, &sooner), "is not after the start"),
        (schedule(&sooner, &sooner), "is not after the start"),
        (schedule("2020-01-01 10:00", "2020-01-01 11:00"), "is not in the future"),
        (of(&["maintenance", "change", &maintenance, "--end", &past]), "is not after the start"),
        (of(&["maintenance", "change", &maintenance, "--start", &later]), "is not after the start"),
        (
            of(&["maintenance", "change", &incident, "--title", "New"]),
            "incident 1 is no maintenance: see `worker incident`",
        ),
        (of(&["maintenance", "end", &maintenance]), "it begins at"),
        (of(&["maintenance", "end", &incident]), "is no maintenance: see `worker incident`"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (done, said) = system.worker_command(&arguments).await?;
        ensure!(!done && said.contains(says), "{arguments:?}: {said:?} does not say {says:?}");
        ensure!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
    ensure!(contents(&system).await? == before, "something was changed");
    system.finish().await
}

async fn every_command_explains_itself(fixture: Arc<Fixture>) -> Result<()> {
    let worker = &fixture.binaries.worker;
    for (command, takes_a_time) in [
        (&["incident", "list"][..], false),
        (&["incident", "show"], false),
        (&["incident", "open"], true),
        (&["incident", "comment"], false),
        (&["incident", "change"], false),
        (&["incident", "close"], true),
        (&["incident", "remove-component"], false),
        (&["maintenance", "schedule"], true),
        (&["maintenance", "change"], true),
        (&["maintenance", "end"], false),
        (&["catalogue", "apply"], false),
    ] {
        let arguments = [command, &["--help"]].concat();
        let (done, said) = fixture.command(worker, &arguments, &[]).await?;
        ensure!(done && said.contains("--json"), "{command:?}: {said}");
        let says_utc = said.contains("UTC as") && said.contains("RFC 3339");
        ensure!(!takes_a_time || says_utc, "{command:?}: {said}");
    }
    Ok(())
}
