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

/// Both endpoints; the last gateway has a rate limit that is reached.
pub(super) async fn alerts_and_webhook(system: &System, document: &mut Document) -> Result<()> {
    let webhook = json!({ "version": "4", "alerts": alerts(), "truncatedAlerts": 1 });
    let limited = system.addresses.len() - 1;
    for (path, body) in [(ALERTS, &alerts()), (WEBHOOK, &webhook)] {
        let post = |gateway: usize, query: &str| {
            let path = format!("{path}{query}");
            system.request_to(gateway, Method::POST, &path).bearer_auth(&system.token)
        };
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
            let sent = answer(post(limited, "").json(body)).await?;
            Ok(document.check("POST", path, sent)?.status == 503)
        })
        .await?;
        document.check("POST", path, without_its_body(system, path).await?)?;
    }
    Ok(())
}
