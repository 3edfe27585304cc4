//! Answers in the formats of others, and events.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::Value;

use super::{Document, are_cached};
use harness::{Answer, System};

const LIVE: &str = "/api/v1/live";
const ATOM: &str = "/feed.atom";
const CALENDAR: &str = "/maintenance.ics";
const BADGE: &str = "/badge.svg";
const COMPONENT_BADGE: &str = "/badge/components/{file}";
const STATUSPAGE: &str = "/api/v2/{document}";
const STATUSPAGE_PART: &str = "/api/v2/{kind}/{document}";

/// Paths and how they are asked for.
pub(super) const ASKED: [(&str, &str); 6] = [
    (ATOM, ATOM),
    (CALENDAR, CALENDAR),
    (BADGE, BADGE),
    (COMPONENT_BADGE, "/badge/components/1.svg"),
    (STATUSPAGE, "/api/v2/summary.json"),
    (STATUSPAGE_PART, "/api/v2/incidents/unresolved.json"),
];

/// `limited` is a gateway with few connections.
pub(super) async fn formats(
    system: &System,
    document: &mut Document,
    limited: usize,
) -> Result<()> {
    for (path, asked, status) in [
        (ATOM, "/feed.atom?region=R1", 200),
        (ATOM, "/feed.atom?region=R9", 404),
        (ATOM, "/feed.atom?component=x", 422),
        (CALENDAR, "/maintenance.ics?region=R9", 404),
        (CALENDAR, "/maintenance.ics?region=%00", 422),
        (COMPONENT_BADGE, "/badge/components/999999.svg", 404),
        (STATUSPAGE, "/api/v2/unknown.json", 404),
        (STATUSPAGE_PART, "/api/v2/unknown/active.json", 404),
    ] {
        let shown = document.check("GET", path, system.get(asked).await?)?;
        ensure!(shown.status == status, "not {status}: {shown:?}");
    }
    for (path, asked) in ASKED {
        let shown = document.check("GET", path, system.get(asked).await?)?;
        ensure!(shown.status == 200, "{shown:?}");
    }
    are_cached(system, document, &ASKED).await?;
    events(system, document, limited).await
}

async fn events(system: &System, document: &mut Document, limited: usize) -> Result<()> {
    let mut readers = Vec::new();
    loop {
        let mut response = system.request_to(limited, Method::GET, LIVE).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status == 503 {
            let body = response.json().await?;
            document.check("GET", LIVE, Answer { status, headers, body })?;
            return Ok(());
        }
        let event = response.chunk().await?.context("no event")?;
        let body = Value::String(String::from_utf8(event.into())?);
        document.check("GET", LIVE, Answer { status, headers, body })?;
        readers.push(response);
        ensure!(readers.len() < 40, "events take all connections");
    }
}
