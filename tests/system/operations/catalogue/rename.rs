//! Which component an entry means, and how components are renamed.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{apply, components};
use harness::{Fixture, NOW, System, answer, eventually, tests};

tests!(
    two_teams_with_a_file_each_never_take_each_others_components,
    a_category_is_renamed_while_updates_wait,
    a_renamed_component_keeps_its_id_and_its_incidents,
    what_is_active_is_not_renamed,
    a_renaming_that_is_not_clear_changes_nothing,
    what_changes_before_the_lock_is_noticed,
);

async fn apply_well(system: &System, entries: &[&str], says: &str) -> Result<String> {
    let (done, said) = apply(system, entries, &[]).await?;
    ensure!(done && said.contains(says), "{said:?} does not say {says:?}");
    system.catalogue_seen().await?;
    Ok(said)
}

fn update(name: &str, attributes: &[(&str, &str)], impact: u8) -> Value {
    let attributes: Vec<Value> =
        attributes.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "name": name, "impact": impact, "attributes": attributes })
}

const VPN_NL: &str = "VPN, attributes: {category: Network, region: EU-NL, type: vpn}";

const VPN_CH: &str = "VPN, attributes: {category: Network, region: EU-CH2, type: vpn}";

async fn two_teams_with_a_file_each_never_take_each_others_components(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    apply_well(&system, &[VPN_NL], "1 added, 0 changed").await?;
    let nl = update("VPN", &[("region", "EU-NL")], 3);
    let opened = system.post(&nl).await?;
    ensure!(opened.status == 201 && opened.body["id"] == 1, "{opened:?}");

    let said = apply_well(&system, &[VPN_CH], "1 added, 0 changed, 0 as they were, 1 not").await?;
    ensure!(said.contains("stays    VPN (Network, EU-NL, vpn)"), "{said}");
    ensure!(said.contains("needs `renamed-from`"), "{said}");
    let both = ["1 VPN Network,EU-NL,vpn in 1", "2 VPN Network,EU-CH2,vpn"];
    ensure!(components(&system).await? == both, "{:?}", components(&system).await?);
    // Each of them as often as they like.
    let version = "SELECT lists + catalogue FROM sdb_version";
    let before = system.count(version).await?;
    for file in [VPN_NL, VPN_CH, VPN_NL] {
        apply_well(&system, &[file], "0 added, 0 changed, 1 as they were, 1 not").await?;
    }
    ensure!(system.count(version).await? == before, "the version moved");
    ensure!(components(&system).await? == both, "{:?}", components(&system).await?);
    // An incident stays where it was reported.
    let ch = system.post(&update("VPN", &[("region", "EU-CH2")], 1)).await?;
    ensure!(ch.status == 201 && ch.body["id"] == 2, "{ch:?}");
    let again = system.post(&nl).await?;
    ensure!(again.status == 200 && again.body["id"] == 1, "{again:?}");
    system.finish().await
}

async fn a_category_is_renamed_while_updates_wait(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    apply_well(&system, &[VPN_NL, VPN_CH], "2 added").await?;
    let opened = system.post(&update("VPN", &[("region", "EU-NL")], 1)).await?;
    ensure!(opened.status == 201, "{opened:?}");

    let scope = system.hold_scope().await?;
    // It names the component by its category as it was.
    let body = update("VPN", &[("category", "Network"), ("region", "EU-NL")], 3);
    let posted = answer(system.update(&body).header("Prefer", "respond-async")).await?;
    ensure!(posted.status == 202, "{posted:?}");
    // The scope's lock is not needed for it, nor is it refused for what is active.
    let renamed = [VPN_NL, VPN_CH].map(|entry| entry.replace("Network", "Connect"));
    let renamed = renamed.each_ref().map(String::as_str);
    let said = apply_well(&system, &renamed, "0 added, 2 changed, 0 as they were, 0 not").await?;
    ensure!(
        said.contains("changed  VPN (Network, EU-NL, vpn) to VPN (Connect, EU-NL, vpn)"),
        "{said}"
    );
    scope.commit().await?;
    system.drained().await?;
    let applied = "SELECT count(*) FROM sdb_inbox WHERE outcome = 'raised' AND component_id = 1";
    ensure!(system.count(applied).await? == 1, "the update that waited was not applied");
    let expected = ["1 VPN Connect,EU-NL,vpn in 1", "2 VPN Connect,EU-CH2,vpn"];
    ensure!(components(&system).await? == expected, "{:?}", components(&system).await?);
    // Another category and another region at once are another component.
    let other = ["VPN, attributes: {category: Other, region: EU-DE, type: vpn}"];
    apply_well(&system, &other, "1 added, 0 changed, 0 as they were, 2 not").await?;
    system.finish().await
}

async fn a_renamed_component_keeps_its_id_and_its_incidents(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    apply_well(&system, &[VPN_NL, "CDN", "Unused"], "3 added").await?;
    let opened = system.post(&update("VPN", &[("region", "EU-NL")], 3)).await?;
    ensure!(opened.status == 201, "{opened:?}");
    system.worker_succeeds(&["incident", "close", "1"]).await?;

    let new = "Virtual Private Network, attributes: {category: Connect, region: EU-NL, type: vpn}";
    let renamed = format!("{new}, renamed-from: VPN");
    let file = [renamed.as_str(), "CDN"];
    let before = components(&system).await?;
    let summary = "0 added, 0 changed, 1 renamed, 1 as they were, 1 removed, 0 not in the file";
    for (arguments, stays) in [(&["--prune", "--dry-run"][..], true), (&["--prune"], false)] {
        let (done, said) = apply(&system, &file, arguments).await?;
        ensure!(done && said.contains(summary), "{said}");
        let line =
            "renamed  VPN (Network, EU-NL, vpn) to Virtual Private Network (Connect, EU-NL, vpn)";
        ensure!(said.contains(line) && said.contains("removed  Unused ()"), "{said}");
        ensure!((components(&system).await? == before) == stays, "{arguments:?}");
    }
    let after = ["1 Virtual Private Network Connect,EU-NL,vpn in 1", "2 CDN"];
    ensure!(components(&system).await? == after, "{:?}", components(&system).await?);
    let version = "SELECT lists + catalogue FROM sdb_version";
    let moved = system.count(version).await?;
    // Again, with the line and without it, and when somebody else has one of the former name.
    apply_well(&system, &file, "0 added, 0 changed, 2 as they were, 0 not").await?;
    apply_well(&system, &[new, "CDN"], "0 added, 0 changed, 2 as they were, 0 not").await?;
    ensure!(system.count(version).await? == moved, "the version moved");
    system.components(&[("VPN", &[("region", "EU-NL")])]).await?;
    apply_well(&system, &file, "0 added, 0 changed, 2 as they were, 1 not").await?;

    let region = [("region", "EU-NL")];
    let answered = system.post(&update("Virtual Private Network", &region, 1)).await?;
    ensure!(answered.status == 201 && answered.body["id"] == 2, "{answered:?}");
    // An empty database takes the same file.
    system
        .sql("TRUNCATE component, component_attribute, incident_component_relation CASCADE")
        .await?;
    let said = apply_well(&system, &file, "2 added, 0 changed, 0 as they were, 0 not").await?;
    ensure!(said.contains("there is no VPN (EU-NL, vpn) that could be renamed"), "{said}");
    system.finish().await
}

async fn what_is_active_is_not_renamed(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    let names: Vec<String> = (1..=7).map(|number| format!("Old {number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    apply_well(&system, &names, "7 added").await?;
    // 1 to 4 are active: the system's, one whose start lies ahead of the clock, a person's, a
    // maintenance. 5 to 7 are not: a closed one, a scheduled maintenance, and one that is planned.
    system
        .sql(&format!(
            "INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
                (1, 'System', {NOW}, NULL, 1, true),
                (2, 'Ahead', {NOW} + interval '1 hour', NULL, 2, true),
                (3, 'Person', {NOW}, NULL, 3, false),
                (4, 'Running', {NOW}, {NOW} + interval '1 hour', 0, false),
                (5, 'Closed', {NOW} - interval '1 hour', {NOW}, 3, true),
                (6, 'Scheduled', {NOW} + interval '1 hour', {NOW} + interval '2 hours', 0, false),
                (7, 'Planned', {NOW} + interval '1 hour', NULL, 1, false);
            INSERT INTO incident_component_relation SELECT n, n FROM generate_series(1, 7) n"
        ))
        .await?;
    let before = components(&system).await?;
    for number in 1..=7 {
        let entry = format!("New {number}, renamed-from: Old {number}");
        for arguments in [&["--dry-run"][..], &[]] {
            let (done, said) = apply(&system, &[&entry], arguments).await?;
            if number > 4 {
                ensure!(done && said.contains("0 changed, 1 renamed"), "{number}: {said}");
                continue;
            }
            let refusal = format!(
                "catalogue.yaml: these can't be renamed while they are in active incidents or \
                maintenances: Old {number} () in {number}; nothing was applied"
            );
            ensure!(!done && said.contains(&refusal), "{number}: {said}");
            ensure!(components(&system).await? == before, "{number}: something was applied");
        }
    }
    let names = system.texts("SELECT name FROM component ORDER BY id").await?;
    ensure!(names == ["Old 1", "Old 2", "Old 3", "Old 4", "New 5", "New 6", "New 7"], "{names:?}");
    // Nor is anything else of such a file applied.
    let (done, said) =
        apply(&system, &["Other", "New 1, renamed-from: Old 1"], &["--prune"]).await?;
    ensure!(!done && said.contains("can't be renamed"), "{said}");
    ensure!(system.texts("SELECT name FROM component ORDER BY id").await? == names);
    system.finish().await
}

async fn a_renaming_that_is_not_clear_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    apply_well(&system, &[VPN_NL, VPN_CH, "A", "B"], "4 added").await?;
    let before = components(&system).await?;
    for (file, says) in [
        (
            &["New", "Other, renamed-from: {name: VPN, attributes: {type: vpn}}"][..],
            "line 3: renamed-from matches several components, add attributes to identify one of: \
            VPN (Network, EU-NL, vpn); VPN (Network, EU-CH2, vpn)",
        ),
        (&["A", "C, renamed-from: A"], "line 3: renamed-from means A (), and so does line 2"),
        (&["C, renamed-from: A", "D, renamed-from: A"], "line 3: renamed-from means A (), and so"),
        (&["B, renamed-from: A", "C, renamed-from: B"], "line 3: renamed-from means B (), and so"),
        (&["C, renamed-from: {}"], "line 2: C: renamed-from has neither a former name"),
        (&["C, renamed-from: [A]"], "the name before, or `name` and `attributes` before"),
        (&["C, renamed-from: {nom: A}"], "nom"),
    ] {
        for arguments in [&["--dry-run"][..], &[]] {
            let (done, said) = apply(&system, file, arguments).await?;
            ensure!(!done && said.contains(says), "{file:?}: {said:?} does not say {says:?}");
        }
    }
    ensure!(components(&system).await? == before, "something was applied");
    let (_, help) = system.worker_command(&["catalogue", "apply", "--help"]).await?;
    ensure!(help.contains("renamed-from: VPN") && help.contains("except `category`"), "{help}");
    system.finish().await
}

/// What an operator's command reads before it holds the scope's lock may be otherwise when it does.
async fn what_changes_before_the_lock_is_noticed(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    apply_well(&system, &["A", "B", "C"], "3 added").await?;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock'";
    let catalogue = ["New, renamed-from: A"];
    let open = ["incident", "open", "--title", "T", "--impact", "1", "--component", "B"];
    for (command, change) in [
        (None, "UPDATE component SET name = 'Other' WHERE name = 'A'"),
        (Some(open), "UPDATE component SET name = 'Else' WHERE name = 'B'"),
        (Some(open), "DELETE FROM component WHERE name = 'B'"),
    ] {
        let scope = system.hold_scope().await?;
        let run = async {
            match command {
                None => apply(&system, &catalogue, &[]).await,
                Some(arguments) => system.worker_command(&arguments).await,
            }
        };
        let meanwhile = async {
            eventually("the command waits", async || Ok(system.count(waits).await? == 1)).await?;
            system.sql(change).await?;
            scope.commit().await?;
            Ok::<_, anyhow::Error>(())
        };
        let ((done, said), ()) = tokio::try_join!(run, meanwhile)?;
        match command {
            // Made anew for what is there then.
            None => ensure!(done && said.contains("there is no A () that could be"), "{said}"),
            Some(_) => {
                let refusal =
                    "the catalogue was changed meanwhile, and nothing was done: try again";
                ensure!(!done && said.contains(refusal), "{said}");
                system.sql("UPDATE component SET name = 'B' WHERE name = 'Else'").await?;
            }
        }
    }
    ensure!(components(&system).await? == ["1 Other", "3 C", "4 New"]);
    ensure!(system.count("SELECT count(*) FROM incident").await? == 0);
    system.finish().await
}
