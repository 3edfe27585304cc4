//! API v2, as today's reporter and frontend use it.

mod availability;
mod cross_origin;
mod events;
mod filters;
mod paging;
mod reporter;
mod year;

use anyhow::{Result, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use harness::{Answer, System, answer, tests_of};

tests_of!(availability, cross_origin, events, filters, paging, reporter);

pub(super) const COMPONENTS: &str = "/v2/components";
pub(super) const EVENTS: &str = "/v2/events";

/// The body of a report, exactly as the reporter sends it.
pub(super) fn report(components: &[i32], impact: u8) -> Value {
    json!({
        "title": "System incident from monitoring system",
        "description": "DNS has a high latency",
        "impact": impact,
        "components": components,
        "start_date": "2026-02-03T15:17:26+00:00",
        "system": true,
        "type": "incident",
    })
}

/// A report to one of the gateways, with the token.
pub(super) fn reported(system: &System, gateway: usize, body: &Value) -> RequestBuilder {
    system.request_to(gateway, Method::POST, EVENTS).bearer_auth(&system.token).json(body)
}

/// What anybody gets without a token.
async fn read(system: &System, path: &str) -> Result<Answer> {
    answer(system.request_to(0, Method::GET, path)).await
}

/// The events of a list.
async fn events(system: &System, query: &str) -> Result<Vec<Value>> {
    let list = read(system, &format!("{EVENTS}{query}")).await?;
    ensure!(list.status == 200, "{query}: {list:?}");
    Ok(list.body["data"].as_array().cloned().unwrap_or_default())
}

/// An error of API v2.
fn is_refused(answer: &Answer, status: u16, message: &str) -> Result<()> {
    let said = answer.body["errMsg"].as_str().unwrap_or_default();
    ensure!(answer.status == status && said.contains(message), "{answer:?}");
    ensure!(answer.body.as_object().is_some_and(|body| body.len() == 1), "{answer:?}");
    Ok(())
}
