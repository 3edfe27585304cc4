//! Scripts of other sites may read API v2; errors have its form.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::Method;

use super::{COMPONENTS, EVENTS, is_refused};
use harness::{Answer, Fixture, INCIDENTS, System, answer, tests};

tests!(
    every_answer_below_v2_lets_other_sites_read_it,
    a_bad_token_counts_as_none_where_none_is_needed,
);

fn is_open(answer: &Answer) -> Result<()> {
    for (header, value) in [
        ("access-control-allow-origin", "*"),
        (
            "access-control-allow-headers",
            "Content-Type, Authorization, Cache-Control, X-Requested-With",
        ),
        ("access-control-allow-methods", "GET, POST, PATCH, PUT, OPTIONS"),
        ("access-control-max-age", "86400"),
    ] {
        ensure!(answer.header(header) == value, "{header}: {answer:?}");
    }
    Ok(())
}

async fn every_answer_below_v2_lets_other_sites_read_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    for path in [COMPONENTS, EVENTS, "/v2/events/1", "/v2/availability", "/v2/incidents"] {
        let asked = system.request_to(0, Method::OPTIONS, path);
        let asked = asked.header("Origin", "https://status.example.org");
        let allowed =
            answer(asked.header("Access-Control-Request-Headers", "authorization")).await?;
        ensure!(allowed.status == 204 && allowed.body.is_null(), "{allowed:?}");
        is_open(&allowed)?;
    }
    for (method, path, status) in [
        (Method::GET, "/v2/availability", 200),
        (Method::GET, "/v2/events/1", 404),
        (Method::GET, "/v2/incidents", 404),
        (Method::POST, EVENTS, 401),
        (Method::POST, COMPONENTS, 405),
        (Method::GET, "/v2/events?page=0", 400),
    ] {
        let said = answer(system.request_to(0, method, path)).await?;
        ensure!(said.status == status, "{path}: {said:?}");
        is_open(&said)?;
        if status >= 400 {
            is_refused(&said, status, "")?;
        }
        let length = said.header("content-length");
        ensure!(!length.is_empty() || status == 200, "{said:?}");
    }
    // So are the public lists of API v1, but not receipts.
    let list = system.get(INCIDENTS).await?;
    ensure!(list.header("access-control-allow-origin") == "*", "{list:?}");
    let receipt = system.get("/api/v1/updates/018f0000-0000-7000-8000-000000000000").await?;
    ensure!(receipt.header("access-control-allow-origin").is_empty(), "{receipt:?}");
    system.finish().await
}

async fn a_bad_token_counts_as_none_where_none_is_needed(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    for path in [COMPONENTS, EVENTS, "/v2/availability"] {
        let request = system.request_to(0, Method::GET, path).bearer_auth("expired");
        let shown = answer(request).await?;
        ensure!(shown.status == 200, "{shown:?}");
        let tag = shown.header("etag").to_owned();
        let again = system.request_to(0, Method::GET, path).header("If-None-Match", tag);
        let again = answer(again).await?;
        // The availability changes every minute.
        ensure!(again.status == 304 || path == "/v2/availability", "{again:?}");
        is_open(&again)?;
    }
    system.finish().await
}
