//! Commands on the catalogue.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{contents, json_of, post, with_components};
use harness::{Fixture, tests};

tests!(a_catalogue_is_planned_and_pruned,);

async fn a_catalogue_is_planned_and_pruned(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?["id"].to_string();
    let path = fixture.folder.join("catalogue.yaml");
    let path_text = path.to_str().context("the path is no text")?;
    let apply = |more: &[&'static str]| [&["catalogue", "apply", path_text], more].concat();
    let dns = "components:
  - name: DNS
    attributes: {region: R1, type: names}
    renamed-from: {attributes: {region: R1}}
  - name: Mail
";
    fs::write(&path, dns)?;
    let before = contents(&system).await?;
    let plan = system.worker_succeeds(&apply(&["--dry-run"])).await?;
    for line in [
        "added    Mail ()",
        "renamed  DNS (R1, dns) to DNS (R1, names)",
        "stays    CDN (), which the file does not have",
        "1 added, 0 changed, 1 renamed, 0 as they were, 3 not in the file",
        "A dry run: nothing was changed.",
    ] {
        ensure!(plan.contains(line), "{line:?} is not in {plan}");
    }
    let refusal = format!(
        "catalogue.yaml: these can't be removed, because they are in incidents: CDN () in {incident}; \
        nothing was applied"
    );
    for arguments in [&["--prune"][..], &["--prune", "--dry-run"]] {
        let (done, said) = system.worker_command(&apply(arguments)).await?;
        ensure!(!done && said.contains(&refusal), "{said} does not say {refusal}");
    }
    // Also by one that is closed.
    system.worker_succeeds(&["incident", "close", &incident]).await?;
    let (done, said) = system.worker_command(&apply(&["--prune"])).await?;
    ensure!(!done && said.contains(&refusal), "{said}");
    let kept = contents(&system).await?;
    let of_components = |rows: &[String]| -> Vec<String> {
        rows.iter().filter(|row| row.starts_with("component")).cloned().collect()
    };
    ensure!(of_components(&kept) == of_components(&before), "something was applied");

    fs::write(&path, format!("{dns}  - name: CDN\n"))?;
    let plan = json_of(&system, &apply(&["--prune", "--dry-run"])).await?;
    ensure!(contents(&system).await? == kept, "the dry run changed something");
    let removed = plan["remove"].as_array().context("no list")?;
    let removed: Vec<_> = removed.iter().map(|component| component["id"].clone()).collect();
    ensure!(removed == [2, 4] && plan["same"] == 1 && plan["stay"] == json!([]), "{plan}");
    ensure!(plan["add"][0]["name"] == "Mail", "{plan}");
    let rename = &plan["rename"][0];
    ensure!(rename["before"]["id"] == 1 && plan["change"] == json!([]), "{plan}");
    ensure!(rename["after"]["attributes"][1]["value"] == "names", "{plan}");
    ensure!(json_of(&system, &apply(&["--prune"])).await? == plan);
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM component ORDER BY id")
        .fetch_all(&system.database)
        .await?;
    ensure!(names == ["DNS", "CDN", "Mail"], "{names:?}");
    let orphans = "SELECT count(*) FROM component_attribute WHERE component_id IN (2, 4)";
    ensure!(system.count(orphans).await? == 0);
    // The gateways know at once what is gone.
    system.catalogue_seen().await?;
    post(&system, "Mail", 1, 201).await?;
    post(&system, "R&D <lab>", 1, 400).await?;
    system.finish().await
}
