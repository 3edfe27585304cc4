//! Alerts that are taken: what becomes of each, at both endpoints.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{ALERTS, BOTH, WEBHOOK, body, firing, incidents, metrics, of, recorded, send};
use harness::{Fixture, System, answer, eventually, log_lines, same, tests};

tests!(
    an_alert_opens_an_incident_at_both_endpoints,
    what_was_recorded_of_alertmanager_is_taken,
    alerts_of_one_component_are_one_incident,
    an_alert_that_is_not_mapped_does_not_affect_the_others,
    alerts_that_are_passed_over_are_counted,
    alerts_of_one_request_travel_together,
    alerts_are_taken_while_the_database_is_away,
);

async fn an_alert_opens_an_incident_at_both_endpoints(fixture: Arc<Fixture>) -> Result<()> {
    let system =
        System::start_with(&fixture, &[("DNS", &[("region", "eu")]), ("CDN", &[])]).await?;
    let mut alert = firing(&[
        ("alertname", "Slow"),
        ("component", "DNS"),
        ("region", "eu"),
        ("severity", "critical"),
    ]);
    alert["annotations"] = json!({ "summary": "DNS is slow" });
    // Prometheus has it end in some minutes, unless it is sent again.
    alert["endsAt"] = json!("2999-01-01T00:00:00Z");
    let taken = answer(send(&system, ALERTS, &[alert])).await?;
    ensure!(taken.status == 200 && taken.body.is_null(), "{taken:?}");
    ensure!(taken.header("content-length") == "0", "{taken:?}");
    let taken = answer(send(&system, WEBHOOK, &[of("CDN", "Slow")])).await?;
    ensure!(taken.status == 200, "{taken:?}");
    same(&taken.body, &json!({ "accepted": 1, "unmapped": [] }))?;
    system.drained().await?;
    ensure!(incidents(&system).await? == ["DNS is slow: DNS", "Slow: CDN"]);
    let impacts = system.texts("SELECT impact::text FROM incident ORDER BY id").await?;
    ensure!(impacts == ["3", "1"], "{impacts:?}");
    system.finish().await
}

async fn what_was_recorded_of_alertmanager_is_taken(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("api", &[])]).await?;
    let request = system.request_to(0, Method::POST, WEBHOOK).bearer_auth(&system.token);
    let request = request.header("Content-Type", "application/json");
    let request = request.header("User-Agent", "Alertmanager/0.25.0");
    let taken = answer(request.body(fs::read(recorded("alertmanager-firing.json"))?)).await?;
    same(&taken.body, &json!({ "accepted": 1, "unmapped": [] }))?;
    system.drained().await?;
    ensure!(incidents(&system).await? == ["Demo 127.0.0.1:25495 is down: api"]);
    system.finish().await
}

async fn alerts_of_one_component_are_one_incident(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let alerts = [of("DNS", "Slow"), of("DNS", "Down"), of("DNS", "Slow")];
    for path in BOTH {
        ensure!(answer(send(&system, path, &alerts)).await?.status == 200);
    }
    system.drained().await?;
    ensure!(incidents(&system).await? == ["Slow: DNS"], "{:?}", incidents(&system).await?);
    let applied = system.texts("SELECT outcome FROM sdb_inbox ORDER BY position").await?;
    ensure!(applied.len() == 6 && applied[0] == "opened", "{applied:?}");
    ensure!(applied[1..].iter().all(|outcome| outcome == "unchanged"), "{applied:?}");
    system.finish().await
}

/// Alerts that are not mapped, each with its reason and the word of the metric.
fn unmapped() -> [(Value, &'static str, &'static str); 6] {
    [
        (json!({ "status": "firing" }), "it has no labels", "malformed"),
        (json!(5), "it is not an alert: invalid type: integer `5`", "malformed"),
        (
            firing(&[("alertname", "Slow")]),
            "the default rule: it names no component: the alert has no label `component`",
            "no_name",
        ),
        (
            of(&"x".repeat(256), "Slow"),
            "the default rule: the name of the component has more than 255 characters",
            "too_long",
        ),
        (
            of("Nobody", "Slow"),
            "the default rule: there is no component Nobody",
            "component_not_found",
        ),
        (
            of("Mail", "Slow"),
            "the default rule: several components are Mail: Mail (eu); Mail (us)",
            "component_ambiguous",
        ),
    ]
}

async fn an_alert_that_is_not_mapped_does_not_affect_the_others(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mail = [("Mail", &[("region", "eu")][..]), ("Mail", &[("region", "us")])];
    let system = System::start_with(&fixture, &[&mail[..], &[("DNS", &[])]].concat()).await?;
    let mut alerts = vec![of("DNS", "First")];
    for (alert, ..) in unmapped() {
        alerts.extend([alert, of("DNS", "More")]);
    }
    let taken = answer(send(&system, WEBHOOK, &alerts)).await?;
    ensure!(taken.status == 200 && taken.body["accepted"] == 7, "{taken:?}");
    let listed = taken.body["unmapped"].as_array().context("no list")?;
    ensure!(listed.len() == unmapped().len(), "{listed:?}");
    for (listed, (alert, reason, _)) in listed.iter().zip(unmapped()) {
        let said = listed["reason"].as_str().context("no reason")?;
        ensure!(said.starts_with(reason), "{alert}: {said}");
        let is_readable = alert["labels"]["alertname"].is_string();
        ensure!(listed["fingerprint"].is_string() == is_readable, "{listed}");
    }
    let silent = answer(send(&system, ALERTS, &alerts)).await?;
    ensure!(silent.status == 200 && silent.body.is_null(), "{silent:?}");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 14);

    let metrics = metrics(&system, 0).await?;
    metrics.is("sdb_alerts_total", &["result=\"accepted\""], 14)?;
    metrics.is("sdb_alerts_unmapped_total", &[], 12)?;
    metrics.is("sdb_alerts_unmapped_total", &["reason=\"malformed\""], 4)?;
    for (_, _, word) in unmapped().into_iter().skip(2) {
        metrics.is("sdb_alerts_unmapped_total", &[&format!("reason=\"{word}\"")], 2)?;
    }
    // One line for each reason, however many there are.
    let lines = log_lines(&system.gateways[0].log()?);
    let said = lines.iter().filter(|line| line["message"] == "an alert is not mapped");
    let warned: Vec<&Value> = said.filter(|line| line["level"] == "WARN").collect();
    ensure!(warned.len() == 5, "{warned:?}");
    ensure!(warned.iter().any(|line| line["reason"].as_str() == Some("it has no labels")));
    system.finish().await
}

const MAPPING: &str = r#"rules:
  - match: {alertname: Watchdog}
    ignore: true
  - match: {team: storage}
    component: {name: '{{ service }}'}
"#;

async fn alerts_that_are_passed_over_are_counted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let file = super::written(&fixture, "mapping.yaml", MAPPING)?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_ALERT_MAPPING", &file)]).await?;
    system.components(&[("S3", &[])]).await?;
    let info = [("team", "storage"), ("service", "S3"), ("severity", "info")];
    let alerts = [
        firing(&[("alertname", "Watchdog")]),
        firing(&info),
        firing(&info[..2]),
        firing(&[("alertname", "Other")]),
    ];
    let taken = answer(send(&system, WEBHOOK, &alerts)).await?;
    ensure!(taken.body["accepted"] == 1, "{taken:?}");
    ensure!(taken.body["unmapped"][0]["reason"] == "no rule matches it", "{taken:?}");
    ensure!(taken.body["unmapped"].as_array().map(Vec::len) == Some(1), "{taken:?}");
    let metrics = metrics(&system, 0).await?;
    metrics.is("sdb_alerts_total", &["result=\"accepted\""], 1)?;
    metrics.is("sdb_alerts_total", &["result=\"passed_over\""], 2)?;
    metrics.is("sdb_alerts_unmapped_total", &["reason=\"no_rule\""], 1)?;
    metrics.is("sdb_alert_mapping_loaded", &[], 1)?;
    system.drained().await?;
    ensure!(incidents(&system).await? == ["Incident: S3"]);
    system.finish().await
}

async fn alerts_of_one_request_travel_together(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "1")]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let alerts: Vec<Value> = (0..64).map(|n| of("DNS", &n.to_string())).collect();
    let mut truncated = body(WEBHOOK, &alerts);
    truncated["truncatedAlerts"] = json!(7);
    let request = system.request_to(0, Method::POST, WEBHOOK).bearer_auth(&system.token);
    let taken = answer(request.json(&truncated)).await?;
    ensure!(taken.body["accepted"] == 64, "{taken:?}");
    let metrics = metrics(&system, 0).await?;
    metrics.is("sdb_updates_accepted_total", &[], 64)?;
    metrics.is("sdb_messages_published_total", &[], 1)?;
    metrics.is("sdb_alerts_truncated_total", &[], 7)?;
    system.drained().await?;
    ensure!(incidents(&system).await? == ["0: DNS"]);
    system.finish().await
}

async fn alerts_are_taken_while_the_database_is_away(fixture: Arc<Fixture>) -> Result<()> {
    let fixture = fixture.with_own_postgres()?;
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    fixture.postgres().kill();
    let taken = answer(send(&system, WEBHOOK, &[of("DNS", "Slow")])).await?;
    ensure!(taken.status == 200 && taken.body["accepted"] == 1, "{taken:?}");
    // Whether it is new can't be asked; the known one is queued all the same.
    let refused =
        answer(send(&system, WEBHOOK, &[of("Nobody", "Slow"), of("DNS", "Down")])).await?;
    ensure!(refused.status == 503, "{refused:?}");
    let message = refused.body["message"].as_str().context("no message")?;
    ensure!(message.starts_with("1 of 2 alerts were not queued"), "{message}");
    fixture.postgres().start()?;
    eventually("both are applied", async || {
        Ok(system.count("SELECT count(*) FROM sdb_inbox").await.unwrap_or(0) == 2)
    })
    .await?;
    ensure!(incidents(&system).await? == ["Slow: DNS"]);
    system.finish().await
}
