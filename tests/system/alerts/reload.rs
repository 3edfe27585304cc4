//! The mapping file of a gateway: read at the start, and again on SIGHUP.

use std::{fs, sync::Arc};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{WEBHOOK, firing, metrics, send, written};
use harness::{Fixture, System, answer, eventually, log_lines, tests};

tests!(
    the_mapping_is_read_again_on_sighup_and_the_last_good_one_stays,
    a_gateway_without_a_good_mapping_does_not_start,
    without_a_file_sighup_changes_nothing,
);

fn mapping(name: &str) -> String {
    format!("rules:\n  - component: {{name: {name}}}\n")
}

/// Which component an alert is mapped to.
async fn mapped_to(system: &System) -> Result<Value> {
    let path = format!("{WEBHOOK}?dry_run=true");
    let planned = answer(send(system, &path, &[firing(&[("alertname", "Slow")])])).await?;
    ensure!(planned.status == 200, "{planned:?}");
    Ok(planned.body["updates"][0]["component"]["name"].clone())
}

async fn the_mapping_is_read_again_on_sighup_and_the_last_good_one_stays(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let file = written(&fixture, "mapping.yaml", &mapping("DNS"))?;
    system.start_gateway(&[("SDB_ALERT_MAPPING", &file)]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    ensure!(mapped_to(&system).await? == "DNS");
    fs::write(&file, mapping("CDN"))?;
    ensure!(mapped_to(&system).await? == "DNS");
    system.gateways[0].signal(Signal::SIGHUP)?;
    eventually("the new one counts", async || Ok(mapped_to(&system).await? == "CDN")).await?;
    metrics(&system, 0).await?.is("sdb_alert_mapping_loaded", &[], 1)?;

    let loaded = async || -> Result<f64> {
        Ok(metrics(&system, 0).await?.sum("sdb_alert_mapping_loaded", &[]))
    };
    fs::write(&file, "rules:\n  - component: {nmae: DNS}\n")?;
    system.gateways[0].signal(Signal::SIGHUP)?;
    eventually("the bad one is noticed", async || Ok(loaded().await? == 0.0)).await?;
    ensure!(mapped_to(&system).await? == "CDN");
    fs::remove_file(&file)?;
    system.gateways[0].signal(Signal::SIGHUP)?;
    let reasons = async || -> Result<Vec<String>> {
        let lines = log_lines(&system.gateways[0].log()?);
        let said = "the alert mapping can't be used: the last good one stays";
        let said = lines.iter().filter(|line| line["message"] == said);
        Ok(said.map(|line| format!("{}: {}", line["level"], line["reason"])).collect())
    };
    eventually("the absence is noticed", async || Ok(reasons().await?.len() == 2)).await?;
    let reasons = reasons().await?;
    for (reason, says) in reasons
        .iter()
        .zip(["mapping.yaml: line 2: `nmae` is unknown", "mapping.yaml can't be read"])
    {
        ensure!(reason.starts_with("\"ERROR\"") && reason.contains(says), "{reason}");
    }
    ensure!(mapped_to(&system).await? == "CDN" && loaded().await? == 0.0);

    fs::write(&file, mapping("DNS"))?;
    system.gateways[0].signal(Signal::SIGHUP)?;
    eventually("the new one counts", async || Ok(mapped_to(&system).await? == "DNS")).await?;
    ensure!(loaded().await? == 1.0);
    system.finish().await
}

async fn a_gateway_without_a_good_mapping_does_not_start(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let bad = written(&fixture, "bad.yaml", "rules:\n  - match: {team: dns}\n")?;
    for (file, says) in [
        (bad.as_str(), "bad.yaml: line 2: a rule needs a `component`"),
        ("/nowhere.yaml", "gateway: SDB_ALERT_MAPPING: /nowhere.yaml can't be read: "),
    ] {
        let mut gateway = system.launch("gateway", &[("SDB_ALERT_MAPPING", file)])?;
        ensure!(gateway.ended().await?.code() == Some(1));
        ensure!(gateway.log()?.contains(says), "{}", gateway.log()?);
    }
    system.finish().await
}

async fn without_a_file_sighup_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.gateways[0].signal(Signal::SIGHUP)?;
    eventually("the signal is handled", async || {
        Ok(system.gateways[0].log()?.contains("alert mapping read again"))
    })
    .await?;
    ensure!(system.gateways[0].is_running()?);
    metrics(&system, 0).await?.is("sdb_alert_mapping_loaded", &[], 1)?;
    system.finish().await
}
