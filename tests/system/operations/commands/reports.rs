//! `worker report`.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{json_of, with_components};
use harness::{Fixture, System, answer, eventually, tests};

tests!(an_operator_lists_and_ends_reports, reports_end_only_where_messages_have_them,);

async fn says(system: &System, name: &str, source: &str) -> Result<()> {
    let body = json!({ "name": name, "impact": 1, "source": source });
    let answer = answer(system.update(&body).header("Prefer", "wait=20")).await?;
    ensure!([200, 201].contains(&answer.status), "{answer:?}");
    Ok(())
}

async fn an_operator_lists_and_ends_reports(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let said = system.worker_succeeds(&["report", "list"]).await?;
    ensure!(said.trim() == "No report stands.", "{said}");
    for (name, source) in [("CDN", "b"), ("CDN", "a"), ("R&D <lab>", "a")] {
        says(&system, name, source).await?;
    }
    let all = json_of(&system, &["report", "list"]).await?;
    let lines = all.as_array().context("no list")?;
    let found: Vec<_> =
        lines.iter().map(|line| json!([line["component_id"], line["source"]])).collect();
    ensure!(found == [json!([3, "b"]), json!([3, "a"]), json!([4, "a"])], "{all}");
    ensure!(lines[0]["key"] == "" && lines[0]["ttl"].is_null(), "{all}");
    let said = system.worker_succeeds(&["report", "list", "--component", "R&D <lab>"]).await?;
    ensure!(said.lines().count() == 1 && said.contains("source \"a\""), "{said}");

    // The second time with the id of the first: it is the same update.
    let end = ["report", "end", "CDN", "--source", "a"];
    let said = system.worker_succeeds(&end).await?;
    let (_, id) = said.split_once("The `ok` is the update ").context("no id")?;
    let (id, queued) = id.split_once(".\n").context("no id")?;
    ensure!(queued.starts_with("Queued"), "{said}");
    system.worker_succeeds(&[&end[..], &["--force", "--id", id]].concat()).await?;
    system.worker_succeeds(&["report", "end", "CDN", "--source", "b"]).await?;
    eventually("the component has left", async || {
        let of = "SELECT count(*) FROM incident_component_relation WHERE component_id = 3";
        Ok(system.count(of).await? == 0)
    })
    .await?;
    let of = "SELECT count(*) FROM sdb_report WHERE is_live";
    ensure!(system.count(of).await? == 1);
    ensure!(system.count("SELECT count(*) FROM sdb_inbox WHERE impact IS NULL").await? == 2);
    // What does not stand is not ended by mistake.
    let (done, said) = system.worker_command(&end).await?;
    ensure!(!done && said.contains("no such report stands"), "{said}");
    ensure!(said.contains("worker report list --component 3"), "{said}");
    let (done, said) = system
        .worker_command(&[&end[..], &["--id", "00000000-0000-4000-8000-000000000000"]].concat())
        .await?;
    ensure!(!done && said.contains("it is not the id of an update"), "{said}");
    for (arguments, problem) in [
        (["report", "end", "Nobody"], "there is no component Nobody"),
        (["report", "end", "DNS"], "several components are DNS"),
    ] {
        let (done, said) = system.worker_command(&arguments).await?;
        ensure!(!done && said.contains(problem), "{said}");
    }
    system.finish().await
}

async fn reports_end_only_where_messages_have_them(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    says(&system, "CDN", "a").await?;
    system.worker_succeeds(&["topology", "change", "--wire", "2"]).await?;
    eventually(
        "the worker has declared the new queues, and the report can't be ended",
        async || {
            let end = ["report", "end", "CDN", "--source", "a"];
            let (done, said) = system.worker_command(&end).await?;
            ensure!(!done, "{said}");
            Ok(said.contains("worker topology change --wire 3"))
        },
    )
    .await?;
    // What stands, stands until then.
    ensure!(json_of(&system, &["report", "list"]).await?.as_array().map(Vec::len) == Some(1));
    system.finish().await
}
