//! Alerts that end, in their order and out of it, at either endpoint, and with times that can't be right.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ALERTS, BOTH, WEBHOOK, from_now, incidents, of, recorded, send};
use harness::{CLAIM, Fixture, SECRET, System, answer, tests, token};

tests!(
    an_alert_ends_at_the_endpoint_where_it_began_and_at_the_other,
    what_was_recorded_ends_an_incident,
    a_component_recovers_with_its_last_alert,
    each_prometheus_of_a_pair_reports_by_itself,
    what_is_older_than_a_known_end_changes_nothing,
    an_alert_that_goes_on_firing_after_an_end_opens_its_incident_again,
    an_end_that_is_older_than_the_alert_changes_nothing,
    an_end_may_come_before_its_alert,
    times_that_are_far_ahead_hold_up_nothing,
);

const OPEN: &str = "Slow: DNS";

/// The alert `Slow` of DNS that fires since a time, in seconds from now. For all that is known it fires for four
/// more minutes, as Prometheus writes it.
async fn begun(system: &System, starts: i64) -> Result<Value> {
    let mut alert = of("DNS", "Slow");
    alert["startsAt"] = json!(from_now(system, starts).await?);
    alert["endsAt"] = json!(from_now(system, 240).await?);
    Ok(alert)
}

/// The same alert, which is resolved since a time.
async fn ended(system: &System, starts: i64, ends: i64) -> Result<Value> {
    let mut alert = begun(system, starts).await?;
    alert["status"] = json!("resolved");
    alert["endsAt"] = json!(from_now(system, ends).await?);
    Ok(alert)
}

/// Posts an alert, waits until it is applied, and returns its outcome and the active incidents.
async fn post(system: &System, path: &str, alert: Value) -> Result<(String, Vec<String>)> {
    let taken = answer(send(system, path, &[alert])).await?;
    ensure!(taken.status == 200, "{taken:?}");
    system.drained().await?;
    let applied = "SELECT outcome || ': ' || reason FROM sdb_inbox ORDER BY position DESC LIMIT 1";
    let outcome = system.texts(applied).await?.pop().context("nothing was applied")?;
    Ok((outcome, incidents(system).await?))
}

/// Posts an alert that must have this outcome, after which the incident is open or not.
async fn becomes(
    system: &System,
    path: &str,
    alert: Value,
    outcome: &str,
    is_open: bool,
) -> Result<()> {
    let expected: &[&str] = if is_open { &[OPEN] } else { &[] };
    let (found, incidents) = post(system, path, alert.clone()).await?;
    ensure!(found == outcome && incidents == expected, "{path} {alert}: {found}, {incidents:?}");
    Ok(())
}

const OPENED: &str = "opened: no_incident_of_impact";
const COVERED: &str = "unchanged: covered_by_system_incident";
const CLOSED: &str = "closed: recovered_as_only_component";
const OLD: &str = "unchanged: began_before_known_end";
const LATE: &str = "unchanged: ended_before_known_start";

async fn with_dns(fixture: &Arc<Fixture>) -> Result<System> {
    System::start_with(fixture, &[("DNS", &[])]).await
}

async fn an_alert_ends_at_the_endpoint_where_it_began_and_at_the_other(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_dns(&fixture).await?;
    let mut starts = -1_000;
    for began_at in BOTH {
        for ends_at in BOTH {
            becomes(&system, began_at, begun(&system, starts).await?, OPENED, true).await?;
            let end = ended(&system, starts, starts + 50).await?;
            becomes(&system, ends_at, end, CLOSED, false).await?;
            starts += 100;
        }
    }
    ensure!(system.count("SELECT count(*) FROM sdb_report").await? == 1);
    system.finish().await
}

/// What Prometheus and Alertmanager sent of one alert, at the same times before now as between them.
async fn sent(system: &System, name: &str, times: &[(&str, i64)]) -> Result<Value> {
    let body: Value = serde_json::from_str(&fs::read_to_string(recorded(name))?)?;
    let alerts = body.get("alerts").unwrap_or(&body);
    let mut alert = alerts[0].clone();
    for (field, seconds) in times {
        ensure!(alert[*field].is_string(), "{alert}");
        alert[*field] = json!(from_now(system, *seconds).await?);
    }
    Ok(alert)
}

async fn what_was_recorded_ends_an_incident(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("api", &[])]).await?;
    let (began, ended) = (("startsAt", -97), ("endsAt", -1));
    let open = ["Demo 127.0.0.1:25495 is down: api"];
    // Prometheus sends it to both, and Alertmanager sends it on.
    for (path, file, times, outcome, expected) in [
        (ALERTS, "prometheus-firing.json", &[began, ("endsAt", 143)][..], OPENED, &open[..]),
        (WEBHOOK, "alertmanager-firing.json", &[began], COVERED, &open),
        (ALERTS, "prometheus-resolved.json", &[began, ended], CLOSED, &[]),
        (WEBHOOK, "alertmanager-firing.json", &[began], OLD, &[]),
        (
            WEBHOOK,
            "alertmanager-resolved.json",
            &[began, ended],
            "unchanged: in_no_system_incident",
            &[],
        ),
        (
            ALERTS,
            "prometheus-resolved.json",
            &[began, ended],
            "unchanged: in_no_system_incident",
            &[],
        ),
    ] {
        let alert = sent(&system, file, times).await?;
        let found = post(&system, path, alert).await?;
        ensure!(found.0 == outcome && found.1 == expected, "{file}: {found:?}");
    }
    system.finish().await
}

async fn a_component_recovers_with_its_last_alert(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_dns(&fixture).await?;
    becomes(&system, ALERTS, begun(&system, -600).await?, OPENED, true).await?;
    let mut other = begun(&system, -500).await?;
    other["labels"]["alertname"] = json!("Down");
    becomes(&system, WEBHOOK, other.clone(), COVERED, true).await?;
    let stands = "unchanged: another_report_stands";
    becomes(&system, ALERTS, ended(&system, -600, -400).await?, stands, true).await?;
    // It changes nothing more.
    becomes(&system, WEBHOOK, ended(&system, -600, -400).await?, stands, true).await?;
    other["status"] = json!("resolved");
    other["endsAt"] = json!(from_now(&system, -300).await?);
    becomes(&system, WEBHOOK, other, CLOSED, false).await?;
    system.finish().await
}

async fn each_prometheus_of_a_pair_reports_by_itself(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_dns(&fixture).await?;
    let tokens = ["prometheus-1", "prometheus-2"]
        .map(|source| token(SECRET, &json!({ CLAIM: true, "sub": source })));
    for (number, outcome) in [(0, OPENED), (1, COVERED)] {
        system.token.clone_from(&tokens[number]);
        becomes(&system, ALERTS, begun(&system, -600).await?, outcome, true).await?;
    }
    for (number, outcome, is_open) in
        [(0, "unchanged: another_report_stands", true), (1, CLOSED, false)]
    {
        system.token.clone_from(&tokens[number]);
        let end = ended(&system, -600, -300).await?;
        becomes(&system, ALERTS, end, outcome, is_open).await?;
    }
    system.finish().await
}

async fn what_is_older_than_a_known_end_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_dns(&fixture).await?;
    let alert = begun(&system, -600).await?;
    let mut end = alert.clone();
    end["status"] = json!("resolved");
    end["endsAt"] = json!(from_now(&system, -300).await?);
    becomes(&system, ALERTS, alert.clone(), OPENED, true).await?;
    becomes(&system, WEBHOOK, end.clone(), CLOSED, false).await?;
    for path in BOTH {
        becomes(&system, path, alert.clone(), OLD, false).await?;
        // One that begins at the very end is the same.
        let mut again = alert.clone();
        again["startsAt"] = end["endsAt"].clone();
        becomes(&system, path, again, OLD, false).await?;
    }
    // It fires anew.
    becomes(&system, WEBHOOK, begun(&system, -200).await?, OPENED, true).await?;
    system.finish().await
}

/// Alertmanager ends an alert by itself if it hears nothing from Prometheus; the alert keeps its start.
async fn an_alert_that_goes_on_firing_after_an_end_opens_its_incident_again(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_dns(&fixture).await?;
    for path in BOTH {
        becomes(&system, path, begun(&system, -600).await?, OPENED, true).await?;
        becomes(&system, WEBHOOK, ended(&system, -600, -100).await?, CLOSED, false).await?;
        becomes(&system, path, begun(&system, -600).await?, OLD, false).await?;
        system.sql("UPDATE sdb_report SET ended_at = ended_at - interval '3 minutes'").await?;
        becomes(&system, path, begun(&system, -600).await?, OPENED, true).await?;
        // The end that is repeated ends it again.
        becomes(&system, WEBHOOK, ended(&system, -600, -100).await?, CLOSED, false).await?;
        system.sql("DELETE FROM sdb_report").await?;
    }
    // Its times were moved.
    system.finish_without_replay().await
}

async fn an_end_that_is_older_than_the_alert_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_dns(&fixture).await?;
    becomes(&system, WEBHOOK, begun(&system, -600).await?, OPENED, true).await?;
    becomes(&system, WEBHOOK, ended(&system, -600, -500).await?, CLOSED, false).await?;
    becomes(&system, ALERTS, begun(&system, -400).await?, OPENED, true).await?;
    for path in BOTH {
        becomes(&system, path, ended(&system, -600, -500).await?, LATE, true).await?;
    }
    becomes(&system, WEBHOOK, ended(&system, -400, -300).await?, CLOSED, false).await?;
    system.finish().await
}

async fn an_end_may_come_before_its_alert(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_dns(&fixture).await?;
    let end = ended(&system, -600, -300).await?;
    becomes(&system, WEBHOOK, end, "unchanged: in_no_system_incident", false).await?;
    for path in BOTH {
        becomes(&system, path, begun(&system, -600).await?, OLD, false).await?;
    }
    system.finish().await
}

/// The clock of the sender is ten minutes ahead, until it is set.
async fn times_that_are_far_ahead_hold_up_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_dns(&fixture).await?;
    becomes(&system, WEBHOOK, begun(&system, 600).await?, OPENED, true).await?;
    becomes(&system, ALERTS, begun(&system, 600).await?, COVERED, true).await?;
    // By the endpoint that judges by times, it fires until then.
    let ahead = ended(&system, 600, 700).await?;
    becomes(&system, ALERTS, ahead.clone(), COVERED, true).await?;
    becomes(&system, WEBHOOK, ahead, CLOSED, false).await?;
    // The clock is right again.
    becomes(&system, WEBHOOK, begun(&system, -30).await?, OPENED, true).await?;
    becomes(&system, ALERTS, begun(&system, 600).await?, COVERED, true).await?;
    becomes(&system, ALERTS, ended(&system, -30, -10).await?, CLOSED, false).await?;
    system.finish().await
}
