//! Answers to alerts.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Document, answers::without_its_body};
use harness::{System, answer, eventually};

const ALERTS: &str = "/alertmanager/api/v2/alerts";
const WEBHOOK: &str = "/alertmanager/webhook";

/// Alerts of which one has every result.
fn alerts() -> Value {
    let labels = |component: &str, severity: &str| {
        let labels = json!({ "component": component, "severity": severity });
        json!({ "status": "firing", "labels": labels })
    };
    json!([labels("CDN", "error"), labels("CDN", "info"), labels("Nobody", "error"), 5])
}

/// The webhook's body with these alerts.
fn webhook(alerts: &Value) -> Value {
    json!({ "version": "4", "alerts": alerts, "truncatedAlerts": 1 })
}

/// Both endpoints; the last gateway has a rate limit of 1.
pub(super) async fn alerts_and_webhook(system: &System, document: &mut Document) -> Result<()> {
    let limited = system.addresses.len() - 1;
    // More than the rate limit allows while a request waits.
    let many = json!(vec![json!({}); 100]);
    for (path, body, many) in
        [(ALERTS, &alerts(), &many), (WEBHOOK, &webhook(&alerts()), &webhook(&many))]
    {
        let post = |gateway: usize, query: &str| {
            let path = format!("{path}{query}");
            system.request_to(gateway, Method::POST, &path).bearer_auth(&system.token)
        };
        let described = &document.spec["paths"][path]["post"]["requestBody"];
        document.fits(&described["content"]["application/json"]["schema"], body)?;
        let taken = document.check("POST", path, answer(post(0, "").json(body)).await?)?;
        ensure!(taken.status == 200, "{taken:?}");
        let planned = answer(post(0, "?dry_run=true").json(body)).await?;
        let planned = document.check("POST", path, planned)?;
        for (list, count) in [("updates", 1), ("passed_over", 1), ("unmapped", 2)] {
            let found = planned.body[list].as_array().context("no list")?;
            ensure!(found.len() == count, "{list}: {planned:?}");
        }
        let typed = |query: &str, body: &str| {
            post(0, query).header("Content-Type", "application/json").body(body.to_owned())
        };
        for (request, status) in [
            (typed("", "{"), 400),
            (typed("?dry_run=x", "[]"), 422),
            (typed("", &" ".repeat(4 * 1024 * 1024 + 1)), 413),
            (post(0, "").body("[]"), 415),
            (typed("", "[]").header("Content-Encoding", "gzip"), 415),
            (system.request_to(0, Method::POST, path).body("[]"), 401),
        ] {
            let refused = document.check("POST", path, answer(request).await?)?;
            ensure!(refused.status == status, "not {status}: {refused:?}");
        }
        eventually("the token has sent too much", async || {
            let sent = answer(post(limited, "").json(many)).await?;
            Ok(document.check("POST", path, sent)?.status == 503)
        })
        .await?;
        let slow = without_its_body(system, path).await?;
        ensure!(document.check("POST", path, slow)?.status == 503);
    }
    Ok(())
}
