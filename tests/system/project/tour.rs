//! What a newcomer pastes works as it is written: README's commands, the tour, the examples for operators, and the
//! lines that `cargo run` prints.

use std::{fs, path::Path, process::Stdio, sync::Arc};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::operations::run::{start_on, started::Started};
use harness::{Fixture, System, tests};

tests!(
    the_tour_of_the_readme_answers_as_it_promises,
    a_fault_in_the_tour_is_found,
    the_printed_lines_run_as_they_are,
);

/// A part of the tour: what is promised, and what is to be pasted.
#[derive(Debug, PartialEq)]
struct Step {
    statuses: Vec<u16>,
    script: String,
}

/// The blocks for a shell below a heading, each with the statuses that the text before it names.
fn steps(document: &str, heading: &str) -> Result<Vec<Step>> {
    let (_, section) = document.split_once(heading).context("there is no such heading")?;
    let section = section.split("\n## ").next().unwrap_or(section);
    let mut steps = Vec::new();
    let mut text = String::new();
    let mut script: Option<String> = None;
    for line in section.lines() {
        match (&mut script, line) {
            (None, "```sh") => script = Some(String::new()),
            (None, _) => {
                text.push_str(line);
                text.push('\n');
            }
            (Some(block), "```") => {
                let statuses = text
                    .split(|letter: char| !letter.is_ascii_alphanumeric())
                    .filter(|word| word.len() == 3)
                    .filter_map(|word| word.parse().ok())
                    .collect();
                steps.push(Step { statuses, script: std::mem::take(block) });
                text.clear();
                script = None;
            }
            (Some(block), _) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    Ok(steps)
}

/// Has `curl` wait for outcomes, unless it says otherwise: the default wait is over before a slow machine has
/// decided an update.
const PATIENT: &str = "curl() {
    case \"$*\" in
        *'Prefer: '*) command curl \"$@\" ;;
        *) command curl -H 'Prefer: wait=30' \"$@\" ;;
    esac
}
";

/// Pastes the steps into one shell, and compares the statuses of all that `curl` sends.
async fn play(shell: &str, environment: &Path, folder: &Path, steps: &[Step]) -> Result<String> {
    // `curl` says each status, whatever else the command makes of the answer.
    fs::write(folder.join(".curlrc"), "write-out = \"%{stderr}@status %{http_code}\\n\"\n")?;
    let mut script = format!(". '{}'\n{PATIENT}", environment.display());
    for step in steps {
        script.push_str("echo '@step' >&2\n");
        script.push_str(&step.script);
    }
    let output = Command::new(shell)
        .args(["-euc", &script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("CURL_HOME", folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8(output.stderr)?;
    let printed = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}: {said}{printed}", output.status);
    let answered: Vec<Vec<u16>> = said
        .split("@step")
        .skip(1)
        .map(|part| {
            part.lines().filter_map(|line| line.strip_prefix("@status ")?.parse().ok()).collect()
        })
        .collect();
    for (step, answered) in steps.iter().zip(&answered) {
        ensure!(
            step.statuses == *answered,
            "promised {:?}, answered {answered:?}: {}{said}{printed}",
            step.statuses,
            step.script
        );
    }
    ensure!(answered.len() == steps.len(), "{} of {} steps", answered.len(), steps.len());
    Ok(printed)
}

/// A system with the sample catalogue and no incident.
async fn started(fixture: &Arc<Fixture>) -> Result<(System, Started)> {
    let system = System::bare(fixture).await?;
    let mut run = start_on(&system, &["--prepare", "--sample-catalogue"]).await?.spawn()?;
    run.runs().await?;
    Ok((system, run))
}

/// A document's steps below a heading, which must promise so many statuses at least.
fn steps_of(document: &str, heading: &str, least: usize) -> Result<Vec<Step>> {
    let document = fs::read_to_string(deploy::checkout().join(document))?;
    let steps = steps(&document, heading)?;
    let promised = steps.iter().map(|step| step.statuses.len()).sum::<usize>();
    ensure!(promised >= least, "the tour promises {promised} statuses only: {steps:#?}");
    Ok(steps)
}

fn tour() -> Result<Vec<Step>> {
    steps_of("docs/tour.md", "# A tour with curl\n", 10)
}

async fn the_tour_of_the_readme_answers_as_it_promises(fixture: Arc<Fixture>) -> Result<()> {
    let (system, mut run) = started(&fixture).await?;
    let printed = play("sh", &run.environment(), &fixture.folder, &tour()?).await?;
    // What the text says beside the statuses.
    for part in ["\"Object Storage\"", "\"High latency\"", "High latency: ", "partitions: "] {
        ensure!(printed.contains(part), "no `{part}` in {printed}");
    }
    ensure!(system.count("SELECT count(*) FROM incident").await? == 2, "incidents");
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    // Bash reads it likewise, on a new system; and so do both the README's commands, and those of operators.
    let readme = || steps_of("README.md", "\n## Try it\n", 4);
    let operators = || steps_of("docs/operations.md", "\n## Incidents and maintenances\n", 0);
    for (shell, steps) in [
        ("bash", tour()?),
        ("sh", readme()?),
        ("bash", readme()?),
        ("sh", operators()?),
        ("bash", operators()?),
    ] {
        system.sql("TRUNCATE incident, sdb_inbox, sdb_idempotency_key CASCADE").await?;
        let mut run = start_on(&system, &[]).await?.spawn()?;
        run.runs().await?;
        play(shell, &run.environment(), &fixture.folder, &steps).await?;
        run.signal(Signal::SIGINT)?;
        run.ended().await?;
    }
    // The operators' commands came last: a closed incident, and a maintenance whose end was moved.
    for (what, query) in [
        (
            "closed",
            "SELECT count(*) FROM incident WHERE NOT system AND end_date <= now() AT TIME ZONE 'UTC'",
        ),
        (
            "scheduled",
            "SELECT count(*) FROM incident WHERE impact = 0 AND end_date > now() AT TIME ZONE 'UTC'",
        ),
    ] {
        ensure!(system.count(query).await? == 1, "{what}: not one incident");
    }
    Ok(())
}

async fn a_fault_in_the_tour_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let (_system, mut run) = started(&fixture).await?;
    let environment = run.environment();
    let tour = tour()?;
    // Each fault alone: a name of no component, another path, a command that does not exist, and a
    // status that is not so.
    let find = |script: &str| {
        tour.iter().position(|step| step.script.contains(script)).context("the tour has changed")
    };
    let storage = find("\"impact\": \"minor\"")?;
    let list = find("/incidents?active")?;
    let operator = find("worker incident list")?;
    let faults = [
        (storage, "Object Storage", "Object storage"),
        (list, "/incidents", "/incident"),
        (operator, "incident list", "incidents list"),
    ];
    for (step, right, wrong) in faults {
        let script = tour[step].script.replace(right, wrong);
        let planted = [
            Step { statuses: Vec::new(), script: tour[0].script.clone() },
            Step { statuses: tour[step].statuses.clone(), script },
        ];
        let played = play("sh", &environment, &fixture.folder, &planted).await;
        ensure!(played.is_err(), "`{wrong}` was not found: {played:?}");
    }
    let promised = Step { statuses: vec![201, 200], script: tour[list].script.clone() };
    let played = play("sh", &environment, &fixture.folder, &[promised]).await;
    ensure!(played.is_err(), "a wrong status was not found: {played:?}");
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    Ok(())
}

async fn the_printed_lines_run_as_they_are(fixture: Arc<Fixture>) -> Result<()> {
    let (_system, mut run) = started(&fixture).await?;
    let printed = run.printed()?;
    let (_, usage) = printed.split_once("is running. Open").context("no usage is printed")?;
    // Commands and addresses are what is indented.
    let lines: Vec<&str> = usage.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    ensure!(lines.len() == 7, "{lines:#?}");
    for line in lines.iter().filter(|line| line.starts_with("curl ")) {
        let status = if line.contains(" -d ") { 201 } else { 200 };
        let step = Step { statuses: vec![status], script: format!("{line}\n") };
        // The environment file is not needed for these.
        play("sh", Path::new("/dev/null"), &fixture.folder, &[step]).await?;
    }
    let address = lines.iter().find(|line| line.starts_with("http")).context("no address")?;
    let page = reqwest::Client::builder().no_proxy().build()?.get(*address).send().await?;
    let kind = page.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    ensure!(page.status() == 200 && kind.is_some_and(|kind| kind.contains("html")), "{page:?}");
    let operator: Vec<&str> = lines
        .iter()
        .filter(|line| line.starts_with(". ") || line.starts_with("worker "))
        .copied()
        .collect();
    ensure!(operator.len() == 2, "{operator:?}");
    let step = Step { statuses: Vec::new(), script: format!("{}\n", operator.join("\n")) };
    let shown = play("sh", Path::new("/dev/null"), &fixture.folder, &[step]).await?;
    ensure!(shown.contains("workers:     1"), "{shown}");
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    Ok(())
}
