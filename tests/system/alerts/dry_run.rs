//! `?dry_run=true`: what would become of alerts.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{BOTH, firing, metrics, of, send, written};
use harness::{Fixture, System, answer, same, tests};

tests!(a_dry_run_shows_what_would_become_of_alerts_and_sends_nothing,);

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
    let of_dns =
        |severity| firing(&[("cluster", "otc-eu"), ("component", "DNS"), ("severity", severity)]);
    let alerts = [
        of_dns("error"),
        firing(&[("alertname", "Watchdog")]),
        of("DNS", "Slow"),
        of_dns("info"),
        firing(&[("cluster", "otc-us"), ("component", "DNS")]),
        json!({}),
    ];
    let fingerprints = ["9db4d7a0d8d5e4a3", "003b0a0f7d3fa569", "", "", ""];
    for path in BOTH {
        let planned = answer(send(&system, &format!("{path}?dry_run=true"), &alerts)).await?;
        ensure!(planned.status == 200, "{planned:?}");
        let mut body = planned.body;
        for (list, count) in [("updates", 1), ("passed_over", 2), ("unmapped", 3)] {
            ensure!(body[list].as_array().map(Vec::len) == Some(count), "{list}: {body:#}");
        }
        ensure!(body["passed_over"][0]["fingerprint"] == fingerprints[1], "{body:#}");
        body["updates"][0]["fingerprint"].take();
        body["passed_over"][1]["fingerprint"].take();
        body["unmapped"][0]["fingerprint"].take();
        body["unmapped"][1]["fingerprint"].take();
        same(
            &body,
            &json!({
                "updates": [{
                    "fingerprint": null,
                    "rule": "rule 2 (line 4)",
                    "component": {
                        "id": 1,
                        "name": "DNS",
                        "attributes": [
                            { "name": "region", "value": "eu" },
                            { "name": "type", "value": "dns" },
                        ],
                    },
                    "impact": "major",
                    "text": "DNS in eu",
                }],
                "passed_over": [
                    { "fingerprint": "003b0a0f7d3fa569", "reason": "rule 1 (line 2) ignores it" },
                    { "fingerprint": null, "reason": "rule 2 (line 4): its impact is none" },
                ],
                "unmapped": [
                    { "fingerprint": null, "reason": "no rule matches it" },
                    {
                        "fingerprint": null,
                        "reason": "rule 2 (line 4): there is no component DNS (region=us)",
                    },
                    { "reason": "it has no labels" },
                ],
            }),
        )?;
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
