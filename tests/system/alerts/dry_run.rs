//! `?dry_run=true`: what would become of alerts.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{ALERTS, BOTH, WEBHOOK, firing, from_now, metrics, of, send, written};
use harness::{Clock, Fixture, System, answer, eventually, same, tests};

tests!(
    a_dry_run_shows_what_would_become_of_alerts_and_sends_nothing,
    a_dry_run_says_that_it_can_not_look_a_component_up,
    alerts_are_judged_by_the_databases_clock,
);

const MAPPING: &str = r#"rules:
  - match: {alertname: Watchdog}
    ignore: true
  - match: ['cluster=~"otc-(?P<region>.+)"']
    component: {name: '{{ component }}', attributes: {region: '{{ region }}'}}
    text: '{{ component }} in {{ region }}'
"#;

async fn a_dry_run_shows_what_would_become_of_alerts_and_sends_nothing(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let file = written(&fixture, "mapping.yaml", MAPPING)?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_ALERT_MAPPING", &file)]).await?;
    system.components(&[("DNS", &[("region", "eu"), ("type", "dns")])]).await?;
    let dns = |severity| [("cluster", "otc-eu"), ("component", "DNS"), ("severity", severity)];
    let alert = |fingerprint: &str, labels: &[(&str, &str)]| {
        let mut alert = firing(labels);
        alert["fingerprint"] = json!(fingerprint);
        alert
    };
    let alerts = [
        alert("000000000000000a", &dns("error")),
        alert("000000000000000b", &[("alertname", "Watchdog")]),
        alert("000000000000000c", &[("alertname", "Slow")]),
        alert("000000000000000d", &dns("info")),
        alert("000000000000000e", &[("cluster", "otc-us"), ("component", "DNS")]),
        firing(&[]),
    ];
    let component = json!({
        "id": 1,
        "name": "DNS",
        "attributes": [{ "name": "region", "value": "eu" }, { "name": "type", "value": "dns" }],
    });
    let shown =
        |fingerprint: &str, reason: &str| json!({ "fingerprint": fingerprint, "reason": reason });
    let expected = json!({
        "updates": [{
            "fingerprint": "000000000000000a",
            "rule": "rule 2 (line 4)",
            "component": component,
            "impact": "major",
            "text": "DNS in eu",
        }],
        "passed_over": [
            shown("000000000000000b", "rule 1 (line 2) ignores it"),
            shown("000000000000000d", "rule 2 (line 4): its impact is none"),
        ],
        "unmapped": [
            shown("000000000000000c", "no rule matches it"),
            { "reason": "it has no labels" },
            shown("000000000000000e", "rule 2 (line 4): there is no component DNS (region=us)"),
        ],
    });
    for path in BOTH {
        let planned = answer(send(&system, &format!("{path}?dry_run=true"), &alerts)).await?;
        ensure!(planned.status == 200, "{planned:?}");
        same(&planned.body, &expected)?;
    }
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 0);
    let metrics = metrics(&system, 0).await?;
    for name in ["sdb_alerts_total", "sdb_alerts_unmapped_total", "sdb_updates_accepted_total"] {
        metrics.is(name, &[], 0)?;
    }
    ensure!(!system.gateways[0].log()?.contains("an alert is not mapped"));
    // The same without it.
    let taken = answer(send(&system, &format!("{}?dry_run=false", BOTH[1]), &alerts)).await?;
    ensure!(taken.body["accepted"] == 1, "{taken:?}");
    system.finish().await
}

async fn a_dry_run_says_that_it_can_not_look_a_component_up(fixture: Arc<Fixture>) -> Result<()> {
    let fixture = fixture.with_own_postgres()?;
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    fixture.postgres().kill();
    let path = format!("{WEBHOOK}?dry_run=true");
    let unknown = answer(send(&system, &path, &[of("DNS", "Slow"), of("Nobody", "Slow")])).await?;
    let message = unknown.body["message"].as_str().context("no message")?;
    ensure!(unknown.status == 503, "{unknown:?}");
    ensure!(message.starts_with("It is not known what becomes of 1 alerts; nothing"), "{message}");
    fixture.postgres().start()?;
    eventually("the database is there, and was told nothing", async || {
        Ok(system.count("SELECT count(*) FROM sdb_inbox").await.is_ok_and(|count| count == 0))
    })
    .await?;
    system.finish().await
}

/// The clock of the gateway's machine is off by more than an alert lasts.
async fn alerts_are_judged_by_the_databases_clock(fixture: Arc<Fixture>) -> Result<()> {
    const DAY: i64 = 86_400;
    let mut system = System::prepared(&fixture).await?;
    let clock = Clock::ahead(&fixture.folder, DAY).await?;
    system.start_gateway_unready(&clock.variables()?).await?;
    system.components(&[("DNS", &[])]).await?;
    for (offset, ends, impact) in
        [(DAY, 240, "minor"), (DAY, -60, "ok"), (-DAY, 240, "minor"), (-DAY, -60, "ok")]
    {
        clock.set(offset)?;
        let mut alert = of("DNS", "Slow");
        alert["endsAt"] = json!(from_now(&system, ends).await?);
        let planned = answer(send(&system, &format!("{ALERTS}?dry_run=true"), &[alert])).await?;
        ensure!(planned.status == 200, "{planned:?}");
        ensure!(planned.body["updates"][0]["impact"] == impact, "{offset}: {planned:?}");
    }
    // Alertmanager's webhook says itself what is resolved.
    let mut alert = of("DNS", "Slow");
    alert["endsAt"] = json!(from_now(&system, -60).await?);
    for (status, impact) in [("firing", "minor"), ("resolved", "ok")] {
        alert["status"] = json!(status);
        let path = format!("{}?dry_run=true", BOTH[1]);
        let planned = answer(send(&system, &path, &[alert.clone()])).await?;
        ensure!(planned.body["updates"][0]["impact"] == impact, "{planned:?}");
    }
    system.finish().await
}
