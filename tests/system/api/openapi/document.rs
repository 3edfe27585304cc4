//! The checker finds what is not in the document, and the page shows the document.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::{Method, header::HeaderValue};
use serde_json::json;

use super::Document;
use harness::{Answer, Fixture, System, answer, tests};

tests!(an_answer_that_is_not_in_the_document_is_found, the_page_of_the_document_needs_nothing_else,);

/// The check sees what differs.
async fn an_answer_that_is_not_in_the_document_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    let mut document = Document::read(&system).await?;
    let good = || answer(system.request_to(0, Method::GET, "/healthz"));
    document.check("GET", "/healthz", good().await?)?;
    let with = |change: fn(&mut Answer), mut answer: Answer| {
        change(&mut answer);
        answer
    };
    for change in [
        (|answer| answer.status = 418) as fn(&mut Answer),
        |answer| answer.body = json!({}),
        |answer| answer.body = json!({ "status": 1 }),
        |answer| answer.body["more"] = json!(1),
        |answer| drop(answer.headers.insert("content-type", HeaderValue::from_static("text/html"))),
        |answer| drop(answer.headers.remove("content-type")),
        |answer| drop(answer.headers.insert("x-more", HeaderValue::from_static("1"))),
    ] {
        let found = document.check("GET", "/healthz", with(change, good().await?));
        ensure!(found.is_err(), "it is not found: {found:?}");
    }
    ensure!(document.check("GET", "/elsewhere", good().await?).is_err());
    system.finish().await
}

async fn the_page_of_the_document_needs_nothing_else(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    for (path, media_type) in [
        ("/api-docs", "text/html; charset=utf-8"),
        ("/api-docs/page.js", "text/javascript; charset=utf-8"),
        ("/api-docs/page.css", "text/css; charset=utf-8"),
    ] {
        let file = system.request_to(0, Method::GET, path).send().await?;
        ensure!(file.status() == 200, "{path}: {file:?}");
        ensure!(file.headers()["content-type"] == media_type, "{path}: {file:?}");
        if path == "/api-docs" {
            let policy = file.headers()["content-security-policy"].to_str()?;
            ensure!(policy.starts_with("default-src 'none'"), "{policy}");
            ensure!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
            ensure!(policy.ends_with("frame-ancestors 'none'"), "{policy}");
        }
        let text = file.text().await?;
        ensure!(!text.contains("://"), "{path} names another address");
    }
    system.finish().await
}
