//! `gateway mapping test`.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{mapping, recorded, written};
use harness::{Fixture, tests};

tests!(
    an_alert_is_mapped_by_its_labels,
    what_is_not_mapped_says_why,
    what_was_recorded_of_prometheus_and_alertmanager_is_mapped,
    what_can_not_be_used_is_refused,
);

const MAPPING: &str = r#"rules:
  - match: {alertname: Watchdog}
    ignore: true
  - match: ['job="demo"', 'cluster=~"(?P<kind>exam)ple"']
    component: {name: '{{ service }}', attributes: {kind: '{{ kind }}', replica: '{{ replica }}'}}
    text: '{{ annotations.description }} of {{ component }}'
"#;

async fn an_alert_is_mapped_by_its_labels(fixture: Arc<Fixture>) -> Result<()> {
    let file = written(&fixture, "mapping.yaml", MAPPING)?;
    let update = "matched    by rule 2 (line 4)\n\
        component  Object Storage (kind=exam)\n\
        impact     outage\n\
        text       a, b of api\n";
    let labels = "job=demo,cluster=example,component=api,service=\"Object Storage\"";
    let test = ["test", "--labels", labels, "--labels", "severity=critical"];
    let test = [&test[..], &["--annotations", "description=\"a, b\""]].concat();
    for (variables, option) in
        [(&[("SDB_ALERT_MAPPING", file.as_str())][..], &[][..]), (&[], &["--file", &file])]
    {
        for expected in [&[][..], &["--expect", "Object Storage (kind=exam)=outage"]] {
            let arguments = [&test[..], expected, option].concat();
            let (done, said) = mapping(&fixture, &arguments, variables).await?;
            ensure!(done && said == update, "{arguments:?}: {said}");
        }
    }
    let variables = [("SDB_ALERT_MAPPING", file.as_str())];
    for expected in ["Object Storage (kind=exam)=major", "ignored", "none", "unmapped", "x"] {
        let arguments = [&test[..], &["--expect", expected]].concat();
        let (done, said) = mapping(&fixture, &arguments, &variables).await?;
        let why = "gateway: the alert is mapped to `Object Storage (kind=exam)=outage`, not to";
        let expected = format!("{update}{why} `{expected}`\n");
        ensure!(!done && said == expected, "{said}, not {expected}");
    }
    Ok(())
}

async fn what_is_not_mapped_says_why(fixture: Arc<Fixture>) -> Result<()> {
    let file = written(&fixture, "mapping.yaml", MAPPING)?;
    let variables = [("SDB_ALERT_MAPPING", file.as_str())];
    for (labels, outcome, says) in [
        ("alertname=Watchdog", "ignored", "ignored    by rule 1 (line 2)\n"),
        ("alertname=Slow", "unmapped", "unmapped   no rule matches it\n"),
        (
            "job=demo,cluster=example,service=s3,severity=info",
            "none",
            "matched    by rule 2 (line 4)\nimpact     none, the alert is ignored\n",
        ),
        (
            "job=demo,cluster=example",
            "unmapped",
            "matched    by rule 2 (line 4)\n\
            unmapped   it names no component: the alert has no label `service`\n",
        ),
    ] {
        let arguments = ["test", "--labels", labels, "--expect", outcome];
        let (done, said) = mapping(&fixture, &arguments, &variables).await?;
        ensure!(done && said == says, "{labels}: {said}");
    }
    // Without a file, the default rule applies.
    let arguments =
        ["test", "--labels", "component=DNS,region=eu", "--expect", "DNS (region=eu)=minor"];
    let (done, said) = mapping(&fixture, &arguments, &[]).await?;
    ensure!(done && said.starts_with("matched    by the default rule\n"), "{said}");
    Ok(())
}

async fn what_was_recorded_of_prometheus_and_alertmanager_is_mapped(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let file = written(&fixture, "mapping.yaml", MAPPING)?;
    let since = "since 2026-11-26T13:03:05.568000Z";
    let resolved = format!("resolved at 2026-11-26T13:04:41.568000Z, had been firing {since}");
    let over = format!("resolved at 2026-11-26T13:07:05.568000Z, had been firing {since}");
    let variables = [("SDB_ALERT_MAPPING", file.as_str())];
    for (name, at, state, impact) in [
        (
            "prometheus-firing.json",
            &["--at", "2026-11-26T13:04:05Z"][..],
            format!("firing {since}, for 180 s"),
            "minor",
        ),
        ("prometheus-firing.json", &["--at", "2026-11-26T15:07:06+02:00"], over, "ok"),
        // Long ago.
        ("prometheus-resolved.json", &["--at", "2026-11-26T13:04:42Z"], resolved.clone(), "ok"),
        ("alertmanager-firing.json", &[], format!("firing {since}"), "minor"),
        ("alertmanager-resolved.json", &[], resolved, "ok"),
    ] {
        let body = recorded(name).display().to_string();
        let arguments = [&["test", "--alerts", &body][..], at].concat();
        let (done, said) = mapping(&fixture, &arguments, &variables).await?;
        let expected = format!(
            "alert      03f8b6a16c633a06, {state}\n\
            matched    by rule 2 (line 4)\n\
            component  demo-service (kind=exam, replica=0)\n\
            impact     {impact}\n\
            text       value 0 of api\n"
        );
        ensure!(done && said == expected, "{name}: {said}, not {expected}");
    }
    let several = r#"{"version": "4", "truncatedAlerts": 2, "alerts": [
        {"status": "firing"}, {"status": "firing", "labels": {"alertname": "Watchdog"}}]}"#;
    let several = written(&fixture, "several.json", several)?;
    let (done, said) = mapping(&fixture, &["test", "--alerts", &several], &variables).await?;
    let expected = "unmapped   it has no labels\n\n\
        alert      003b0a0f7d3fa569, firing\n\
        ignored    by rule 1 (line 2)\n\n\
        Alertmanager has left out 2 more (max_alerts).\n";
    ensure!(done && said == expected, "{said}, not {expected}");
    Ok(())
}

async fn what_can_not_be_used_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let bad =
        written(&fixture, "bad.yaml", "rules:\n  - component: {name: x}\n    impcat: minor\n")?;
    let body = written(&fixture, "body.json", "{\"alerts\": []}")?;
    let labels = ["test", "--labels", "alertname=Slow"];
    for (arguments, says) in [
        (
            [&labels[..], &["--file", &bad]].concat(),
            "bad.yaml: line 3: `impcat` is unknown: a rule has `match`, `ignore`, `component`, `impact`, `text`",
        ),
        ([&labels[..], &["--file", "/nowhere.yaml"]].concat(), "/nowhere.yaml can't be read: "),
        (vec!["test", "--labels", "alertname"], "--labels: `alertname`: `=`, `!=`, `=~` or"),
        (vec!["test", "--labels", "a=~b"], "--labels: `a=~\"b\"` is no value: write `a=\"…\"`"),
        (vec!["test", "--labels", "a="], "--labels: an alert has a label"),
        (
            vec!["test", "--alerts", &body],
            "body.json: the body is not that of Alertmanager's webhook",
        ),
        (vec!["test", "--alerts", &body, "--at", "now"], "write UTC as"),
        (vec!["test"], "--labels"),
        (vec!["test", "--alerts", &body, "--labels", "a=b"], "cannot be used with"),
        (vec!["test", "--alerts", &body, "--expect", "x"], "cannot be used with"),
    ] {
        let (done, said) = mapping(&fixture, &arguments, &[]).await?;
        ensure!(!done && said.contains(says), "{arguments:?}: {said}");
    }
    Ok(())
}
