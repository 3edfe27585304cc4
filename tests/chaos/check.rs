//! What is compared at the end.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    eventually, replay,
    verdict::{self, Expected},
};
use uuid::Uuid;

use crate::{
    load::Load,
    many,
    operator::{self, Edits},
    pipelines,
    published::Published,
    record::{self, Attempt, AttemptResult},
    report::Report,
    storm::{Storm, Tally},
    update,
};

/// Receipts that are compared with the answers.
const RECEIPTS: usize = 300;
/// The longest that a gateway may take for one.
const RECEIPT_LIMIT: Duration = Duration::from_secs(30);

/// Compares all there is, prints the table, and returns whether all was as promised.
pub(crate) async fn check(
    storm: &Storm,
    edits: Edits,
    published: &Published,
    folder: &Path,
) -> Result<bool> {
    let database = &storm.system.database;
    let (attempts, mut wrong, reads) = storm.load.record.all();
    record::write(&attempts, &storm.diary, &folder.join("answers.jsonl"))?;
    let mut run = verdict::read(&mut *database.acquire().await?).await?;
    record::write_inbox(&run.inbox, &folder.join("inbox.jsonl"))?;
    run.attempts = record::as_sent(&attempts)?;
    run.confirmed = edits.confirmed.clone();
    let tally: Tally = storm.tally().clone();
    run.expected = Expected {
        compares: true,
        broke: Some(tally.broken.len()),
        operators: vec![operator::NAME.to_owned()],
        unknown_may_be_given_up: false,
        unrecorded_until: tally.unrecorded_until,
    };
    let verdict = verdict::judge(&run);
    wrong.extend(many::out_of_order(&attempts, &run.inbox));
    wrong.extend(pipelines::told_otherwise(&attempts, &run));
    // Nothing that is sent here has a reason to be parked.
    wrong.extend(run.parked.iter().map(|row| format!("parked: {row:?}")));
    if verdict.compared.changes == 0
        || verdict.compared.recoveries() == 0
        || verdict.compared.late() == 0
        || edits.confirmed.is_empty()
        || edits.held == 0
    {
        wrong.push(format!("the run says little: {:?}, {edits:?}", verdict.compared));
    }
    if let Err(error) = replay::holds_one_active_incident(database).await {
        wrong.push(format!("{error:#}"));
    }
    if let Err(error) = receipts(&storm.load, &attempts).await {
        wrong.push(format!("receipts: {error:#}"));
    }
    for member in &storm.members {
        // Its memory is looked at a last time.
        wrong.extend(member.look());
        member.kill()?;
    }
    wrong.extend(panics(&folder.join("logs"))?);
    wrong.extend(tally.wrong.iter().cloned());
    let report = Report {
        attempts: &attempts,
        reads,
        tally: &tally,
        verdict: &verdict,
        rows: run.inbox.len(),
        edits: &edits,
        published,
        members: &storm.members,
        wrong: &wrong,
    };
    let report_text =
        format!("{}\n{}\n{}", report.table(), report.interruptions(), report.findings());
    println!("\n{report_text}");
    fs::write(folder.join("report.md"), report_text)?;
    Ok(report.is_good())
}

/// The receipts of some updates say what their answers said.
async fn receipts(load: &Load, attempts: &[Attempt]) -> Result<()> {
    let answered: Vec<(bool, Uuid, Option<i64>)> = attempts
        .iter()
        .filter_map(|attempt| match attempt.result {
            AttemptResult::Outcome { changed, id, incident } => Some((changed, id, incident)),
            AttemptResult::Accepted(_)
            | AttemptResult::Queued
            | AttemptResult::Refused(..)
            | AttemptResult::Unknown(..)
            | AttemptResult::NoReports
            | AttemptResult::Nothing(_)
            | AttemptResult::Wrong(_) => None,
        })
        .collect();
    let address = load.addresses.first().context("there is no gateway")?;
    for (changed, id, incident) in answered.iter().step_by((answered.len() / RECEIPTS).max(1)) {
        let url = format!("http://{address}/api/v1/updates/{id}");
        let mut receipt = None;
        // A gateway on a slow machine may have no connection to the database free.
        eventually("the gateway looks the receipt up", async || {
            let request = load.client.get(&url).bearer_auth(&load.token).timeout(RECEIPT_LIMIT);
            let answer = harness::answer(request).await?;
            let is_looked_up = answer.status != 503;
            receipt = Some(answer);
            Ok(is_looked_up)
        })
        .await?;
        let receipt = receipt.context("it was not asked")?;
        let is_right = receipt.status == 200 && update::agrees(&receipt, *changed, *incident);
        ensure!(is_right, "{id}, {changed}, {incident:?}: {receipt:?}");
    }
    Ok(())
}

/// What the logs say of panics.
fn panics(logs: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let panics = log.lines().filter(|line| line.contains("panicked"));
        found.extend(panics.map(|line| format!("{}: {line}", path.display())));
    }
    Ok(found)
}
