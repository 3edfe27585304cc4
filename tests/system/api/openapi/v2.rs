//! Answers of API v2.

use anyhow::{Result, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::{
    Document,
    answers::{later, patient, sends_too_much, without_its_body},
    are_cached,
};
use crate::api::v2::{COMPONENTS, EVENTS, report, reported};
use harness::{System, answer};

const EVENT: &str = "/v2/events/{id}";
const AVAILABILITY: &str = "/v2/availability";
const RSS: &str = "/rss/";

/// Paths and how they are asked for.
pub(super) const ASKED: [(&str, &str); 5] = [
    (COMPONENTS, COMPONENTS),
    (EVENTS, EVENTS),
    (EVENT, "/v2/events/1"),
    (AVAILABILITY, AVAILABILITY),
    (RSS, RSS),
];

/// Lists, and reports of components that exist; `limited` is a gateway with a rate limit.
pub(super) async fn v2(system: &System, document: &mut Document) -> Result<()> {
    let limited = system.addresses.len() - 1;
    lists(system, document).await?;
    let keyed = |request: RequestBuilder| request.header("Idempotency-Key", "v2");
    let post = || system.request_to(0, Method::POST, EVENTS).bearer_auth(&system.token);
    let json = |body: &str| post().header("Content-Type", "application/json").body(body.to_owned());
    let mut by_hand = report(&[2], 1);
    by_hand["system"] = json!(false);
    for (request, status) in [
        (patient(keyed(reported(system, 0, &report(&[2, 3], 1)))), 200),
        (patient(keyed(reported(system, 0, &report(&[2], 2)))), 422),
        (later(reported(system, 0, &report(&[2], 1))), 202),
        (patient(reported(system, 0, &report(&[99], 1))), 400),
        (reported(system, 0, &by_hand), 403),
        (json(&" ".repeat(65 * 1024)), 413),
        (post().body("{}"), 415),
        (json("{}").header("Content-Encoding", "gzip"), 415),
        (system.request_to(0, Method::POST, EVENTS).body("{}"), 401),
    ] {
        let done = document.check("POST", EVENTS, answer(request).await?)?;
        ensure!(done.status == status, "not {status}: {done:?}");
    }
    document.check("POST", EVENTS, without_its_body(system, EVENTS).await?)?;
    let send = || later(reported(system, limited, &report(&[2], 1)));
    sends_too_much(document, EVENTS, send).await
}

async fn lists(system: &System, document: &mut Document) -> Result<()> {
    // The availability has a field only while something is not recorded yet.
    system.sql("INSERT INTO sdb_affected_pending DEFAULT VALUES").await?;
    for (path, asked, status) in [
        (COMPONENTS, COMPONENTS, 200),
        (EVENTS, EVENTS, 200),
        (EVENTS, "/v2/events?page=2&limit=10&type=incident&active=true&components=1", 200),
        (EVENTS, "/v2/events?page=0", 400),
        (EVENT, "/v2/events/1", 200),
        (EVENT, "/v2/events/999999", 404),
        (EVENT, "/v2/events/x", 400),
        (AVAILABILITY, AVAILABILITY, 200),
        (RSS, RSS, 200),
        (RSS, "/rss/?mt=R1&srv=DNS", 200),
        (RSS, "/rss/?mt=R9", 404),
        (RSS, "/rss/?mt=%00", 422),
    ] {
        let shown = document.check("GET", path, system.get(asked).await?)?;
        ensure!(shown.status == status, "not {status}: {shown:?}");
    }
    are_cached(system, document, &ASKED).await
}

/// What a gateway answers that can't reach RabbitMQ.
pub(super) async fn v2_without_rabbitmq(
    system: &System,
    document: &mut Document,
    gateway: usize,
) -> Result<()> {
    let unavailable = answer(patient(reported(system, gateway, &report(&[2], 1)))).await?;
    let unavailable = document.check("POST", EVENTS, unavailable)?;
    ensure!(unavailable.status == 503, "{unavailable:?}");
    Ok(())
}
