//! Headers that protect answers from browsers and caches.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::Method;

use harness::{COMPONENT_STATUS, Fixture, System, status_update, tests};

tests!(every_answer_is_protected_from_browsers_and_caches,);

async fn every_answer_is_protected_from_browsers_and_caches(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let posted = system.update(&status_update("DNS", 1)).send().await?;
    let receipt = format!("/api/v1/updates/{}", posted.headers()["update-id"].to_str()?);
    let mut answers = vec![("an update", posted, "no-store")];
    for (method, path, cache) in [
        (Method::GET, receipt.as_str(), "no-store"),
        (Method::POST, COMPONENT_STATUS, "no-store"),
        (Method::DELETE, COMPONENT_STATUS, "no-store"),
        (Method::GET, "/elsewhere", "no-store"),
        (Method::GET, "/healthz", "no-store"),
        (Method::GET, "/readyz", "no-store"),
        (Method::GET, COMPONENT_STATUS, "no-cache"),
        (Method::HEAD, "/api/v1/incidents", "no-cache"),
        (Method::GET, "/api/v1/incidents?limit=x", "no-store"),
        (Method::GET, "/api-spec.json", "no-cache"),
        (Method::GET, "/api-docs", "no-cache"),
    ] {
        let request = system.request_to(0, method, path).bearer_auth(&system.token);
        answers.push((path, request.send().await?, cache));
    }
    for (what, answer, cache) in answers {
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", cache),
        ] {
            ensure!(header(name) == Some(value), "{what}: {answer:?}");
        }
        let policy = header("content-security-policy").unwrap_or_default();
        ensure!(policy.starts_with("default-src 'none'; "), "{what}: {answer:?}");
        ensure!(policy.ends_with("frame-ancestors 'none'"), "{what}: {answer:?}");
        ensure!(header("server").is_none(), "{what}: {answer:?}");
    }
    system.finish().await
}
